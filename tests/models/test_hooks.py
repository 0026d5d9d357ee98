"""Opening a model and leaving it as it came."""

from __future__ import annotations

import copy
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from toys import ToyCNN, ToyViT, batch, toy_vit

from seewhy.errors import LayoutError
from seewhy.models.instrument.hooks import (
    collecting,
    cut,
    first_tensor,
    hooked,
    replaced_forward,
    untouched,
    with_first_tensor,
)
from seewhy.models.instrument.tail import Tail

# ── untouched ────────────────────────────────────────────────────────────────────────────────────────────────────────


class Restless(nn.Module):
    """Does to its own state whatever a forward can do."""

    def __init__(self):
        super().__init__()
        self.norm, self.drop, self.lin = nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 4)
        self.register_buffer("count", torch.zeros(()))
        self.register_buffer("last", torch.zeros(4))
        self.register_buffer("gone", torch.ones(2))
        self.register_buffer("empty", None)
        self.register_buffer("hidden", torch.zeros(1), persistent=False)

    def forward(self, x, fail=False):
        self.count += 1  # in place
        self.last = x.mean(0)  # replaced
        self.hidden.fill_(9)
        self.empty = x.clone()
        del self.gone
        self.register_buffer("cache", x.clone(), persistent=False)
        self.norm.train()(x)  # switches itself to training: statistics move
        self.lin.training = True
        x = x + torch.randn(4)
        if fail:
            raise ZeroDivisionError
        return self.lin(F.dropout(x, 0.5))


@pytest.mark.parametrize("fail", [False, True], ids=["success", "exception"])
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_untouched_puts_everything_back(fail, training):
    torch.manual_seed(1)
    module = Restless().train(training)
    module.drop.train(not training)  # mixed modes
    before = copy.deepcopy(module)
    identities = {name: id(b) for name, b in module.named_buffers()}
    modes, random = [m.training for m in module.modules()], torch.get_rng_state()
    try:
        with untouched(module):
            assert not any(m.training for m in module.modules())
            module(torch.ones(3, 4), fail=fail)
    except ZeroDivisionError:
        assert fail
    assert [m.training for m in module.modules()] == modes
    assert torch.equal(torch.get_rng_state(), random)
    assert {name: id(b) for name, b in module.named_buffers()} == identities
    assert module.empty is None
    assert not hasattr(module, "cache")
    assert module._non_persistent_buffers_set == before._non_persistent_buffers_set
    assert module.hidden == 0
    assert list(module.state_dict()) == list(before.state_dict())
    for name, value in before.state_dict().items():
        assert torch.equal(module.state_dict()[name], value), name


def test_untouched_does_not_write_where_nothing_changed():
    """A write would break a backward that the caller has still to do."""
    norm = nn.BatchNorm2d(3).eval()
    versions = [b._version for b in norm.buffers()]
    with untouched(norm):
        norm(torch.rand(1, 3, 4, 4))
    assert [b._version for b in norm.buffers()] == versions
    norm.train()
    loss = norm(torch.rand(2, 3, 4, 4, requires_grad=True)).sum()
    with untouched(norm):
        norm(torch.rand(1, 3, 4, 4))
    loss.backward()


def test_untouched_leaves_expanded_buffers_alone():
    """Nobody can write to them in place, and a copy into them would fail."""
    module = nn.Module()
    module.register_buffer("ids", torch.arange(3).expand(2, 3))
    with untouched(module):
        pass
    assert module.ids.tolist() == [[0, 1, 2]] * 2


def test_untouched_works_in_inference_mode():
    module = Restless()
    with torch.inference_mode(), untouched(module):
        module(torch.ones(3, 4))
    assert module.count == 0
    assert module.empty is None


# ── hooks and forwards ───────────────────────────────────────────────────────────────────────────────────────────────


def test_hooks_and_forwards_go_after_success_and_after_an_error():
    module = nn.Linear(2, 2)
    with hooked(module, lambda *_: torch.zeros(1)), replaced_forward(module, lambda x: x):
        assert module(torch.ones(1)) == 0
    with pytest.raises(ZeroDivisionError), hooked(module, print), replaced_forward(module, print):
        raise ZeroDivisionError
    assert not module._forward_hooks
    assert "forward" not in module.__dict__


def test_a_forward_that_somebody_else_replaced_comes_back():
    module = nn.Linear(2, 2)
    module.forward = theirs = lambda x: x + 1
    with replaced_forward(module, lambda x: x):
        assert module(torch.ones(1)) == 1
    assert module.__dict__["forward"] is theirs


class Pair(NamedTuple):
    features: torch.Tensor
    note: str


def test_the_first_tensor_of_a_layers_output():
    a, b = torch.ones(1), torch.zeros(1)
    for value in (a, (a, b), [a, b], Pair(a, "x")):
        assert first_tensor(value) is a
        changed = with_first_tensor(value, b)
        assert type(changed) is type(value)
        assert first_tensor(changed) is b
    assert with_first_tensor(Pair(a, "x"), b).note == "x"
    for odd in ({"a": a}, (), (None, a), "text"):
        with pytest.raises(LayoutError, match="choose another layer"):
            first_tensor(odd)


# ── collecting ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_collecting_copies_before_an_in_place_relu_overwrites():
    module, x = ToyCNN().eval(), batch()
    with torch.no_grad():
        want = module.stage1[1](module.stage1[0](x))
        with collecting({"bn": module.stage1[1], "later": module.stage2[0]}) as found:  # the ReLU between them runs
            module(x)
    assert torch.equal(found["bn"], want)
    assert found["bn"].min() < 0


def test_collecting_stops_when_all_are_there_and_only_then():
    module, ran = ToyCNN().eval(), []
    module.stage2.register_forward_hook(lambda *_: ran.append("stage2"))
    module.head.register_forward_hook(lambda *_: ran.append("head"))
    with collecting({"a": module.stage1[0], "b": module.stage2[0]}) as found:
        module(batch())
    assert ran == []
    assert set(found) == {"a", "b"}
    with collecting({"a": module.stage1[0]}, stop=False):
        assert module(batch()).shape == (2, 5)
    assert ran == ["stage2", "head"]
    with pytest.raises(LayoutError, match="'c' did not run"), collecting({"c": nn.Linear(1, 1)}):
        module(batch())
    with pytest.raises(ZeroDivisionError), collecting({"a": module.stage1[0]}):
        raise ZeroDivisionError
    assert not module.stage1[0]._forward_hooks


# ── cut ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_cut_differentiates_above_the_layer_only():
    module, x, seen = ToyCNN().eval(), batch().requires_grad_(), {}
    for name in ("stage1", "stage2"):
        module.get_submodule(name).register_forward_hook(lambda m, a, out, n=name: seen.update({n: out.requires_grad}))
    with cut(module.stage1) as leaf:
        out = module(x)
    assert seen == {"stage1": False, "stage2": True}
    assert leaf[0].is_leaf
    (grad,) = torch.autograd.grad(out[:, 1].sum(), leaf)

    plain = copy.deepcopy(module)
    features = plain.stage1(x)
    (want,) = torch.autograd.grad(plain.head(plain.stage2(features.clone()).mean((2, 3)))[:, 1].sum(), features)
    torch.testing.assert_close(grad, want)
    assert x.grad is None


def test_cut_keeps_the_leaf_from_an_in_place_relu():
    module, x = ToyCNN().eval(), batch()
    with cut(module.stage1[1]) as leaf:
        module(x)
    assert leaf[0].min() < 0
    with torch.no_grad():
        assert torch.equal(leaf[0], module.stage1[1](module.stage1[0](x)))


@pytest.mark.parametrize("outside", [True, False])
def test_cut_leaves_grad_mode_as_it_was(outside):
    module = ToyCNN().eval()
    with torch.set_grad_enabled(outside):
        with cut(module.stage2):
            module(batch())
            assert torch.is_grad_enabled()
        assert torch.is_grad_enabled() is outside
        module.head.register_forward_hook(lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError), cut(module.stage2):
            module(batch())
        assert torch.is_grad_enabled() is outside
    assert not module.stage2._forward_hooks


def test_cut_goes_no_deeper_where_the_model_itself_asks_for_gradients():
    class Eager(ToyCNN):
        def forward(self, x):
            with torch.enable_grad():
                return super().forward(x)

    module = Eager().eval()
    with cut(module.stage2) as leaf:
        module(batch())
    assert leaf[0].is_leaf
    assert leaf[0].requires_grad


def test_cut_says_when_the_layer_does_not_run_once():
    module = ToyCNN().eval()
    with pytest.raises(LayoutError, match="did not run"), cut(nn.Linear(1, 1)):
        module(batch())
    twice = nn.Sequential(relu := nn.ReLU(), relu)
    with pytest.raises(LayoutError, match="more than once"), cut(relu):
        twice(batch())


# ── Tail ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


class Odd(nn.Module):
    """Everything that makes replaying hard: dicts, tuples, in-place writes, modules called twice, on both sides."""

    def __init__(self):
        super().__init__()
        self.stem, self.shared, self.layer = nn.Linear(4, 4), nn.Linear(4, 4), Tupled()
        self.inner = nn.ModuleDict({"low": Dicted(), "deep": nn.Sequential(nn.Linear(4, 4), Tupled(), nn.Linear(4, 4))})
        self.head = nn.Linear(4, 3)

    def forward(self, x, *, scale=1.0):
        x = self.stem(x)
        x.add_(1)  # in place on a recorded output
        first = self.shared(x)
        second = self.shared(first * scale)  # twice below the layer
        low = self.inner["low"](second)
        low["out"][0].mul_(2)
        hidden = self.inner["deep"][0](low["out"][0] + low["extra"] + first)
        hidden.mul_(3)  # in place on a recorded output that goes on beside the layer
        value, side = self.inner["deep"][1](hidden)
        value.mul_(1.5)  # in place on the layer's own output
        value = self.inner["deep"][2](value) + hidden + side
        return self.head(self.shared(value).tanh_() + first)  # and once above it


class Dicted(nn.Module):
    def forward(self, x):
        return {"out": (x.sin(), None), "extra": x.mean(1, keepdim=True), "word": "kept"}


class Tupled(nn.Module):
    def forward(self, x):
        return x.cos(), x.sin()


def odd(seed=2):
    torch.manual_seed(seed)
    return Odd().eval().requires_grad_(False)


@pytest.mark.parametrize("layer", ["inner.deep.1", "inner.deep.0", "stem", "head"])
def test_a_tail_replayed_on_its_own_value_is_the_forward(layer):
    module, x = odd(), torch.randn(2, 4)
    want = module(x, scale=0.5)
    tail = Tail.of(module, layer, x, {"scale": 0.5})
    for _ in range(2):  # the second run finds the records as the first did
        with tail.put(tail.value) as again:
            assert torch.equal(module(again, scale=0.5), want)
    with tail.put(tail.value.repeat(3, 1)) as again:
        torch.testing.assert_close(module(again, scale=0.5), want.repeat(3, 1))
    assert torch.equal(module(x, scale=0.5), want)
    assert not any("forward" in m.__dict__ or m._forward_hooks for m in module.modules())


def test_a_tail_runs_what_is_above_on_other_values():
    """Two different values at the layer, tiled: each as if a hook had put it there."""
    module, x = odd(), torch.randn(2, 4)
    tail = Tail.of(module, "inner.deep.1", x)
    new = torch.randn(4, 4)
    wants = []
    for part in new.split(2):
        handle = module.inner["deep"][1].register_forward_hook(lambda _, __, out, p=part: (p.clone(), out[1]))
        wants.append(module(x))
        handle.remove()
    with tail.put(new) as again:
        torch.testing.assert_close(module(again), torch.cat(wants))


def test_a_tail_of_a_vit_has_the_gradient_of_the_whole():
    model, x = toy_vit(), batch()
    vit = model.module.eval().requires_grad_(False)
    tail = Tail.of(vit, "blocks.2.norm1", x)
    values = tail.value.repeat(2, 1, 1).requires_grad_()
    with tail.put(values) as again:
        (grad,) = torch.autograd.grad(vit(again)[:, 3].sum(), values)
    with cut(vit.blocks[2].norm1) as leaf:
        out = vit(x)[:, 3].sum()
    (want,) = torch.autograd.grad(out, leaf)
    torch.testing.assert_close(grad, want.repeat(2, 1, 1))


def test_a_tail_computes_the_trunk_once():
    vit, ran = ToyViT().eval(), []
    vit.blocks[0].mlp.register_forward_hook(lambda *_: ran.append("trunk"))
    vit.blocks[2].mlp.register_forward_hook(lambda *_: ran.append("top"))
    tail = Tail.of(vit, "blocks.2.norm1", batch())
    assert ran == ["trunk"]
    for _ in range(3):
        with tail.put(tail.value) as again, torch.no_grad():
            vit(again)
    assert ran == ["trunk", "top", "top", "top"]


def test_a_users_hook_on_the_layer_works_once():
    """A hook that changes the layer's output (steering) is in the recorded value; it must not work again."""
    vit, x = ToyViT().eval().requires_grad_(False), batch()
    vit.blocks[2].norm1.register_forward_hook(lambda _, __, out: out * 1.5)
    vit.blocks[0].register_forward_hook(lambda _, __, out: out + 1)
    want = vit(x)
    tail = Tail.of(vit, "blocks.2.norm1", x)
    with tail.put(tail.value) as again:
        torch.testing.assert_close(vit(again), want)


def test_a_tail_leaves_no_trace_after_an_error():
    vit = ToyViT().eval()
    handle = vit.blocks[1].register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        Tail.of(vit, "blocks.2.norm1", batch())
    handle.remove()
    tail = Tail.of(vit, "blocks.2.norm1", batch())
    with pytest.raises(ZeroDivisionError), tail.put(tail.value):
        raise ZeroDivisionError
    assert not any("forward" in m.__dict__ or m._forward_hooks for m in vit.modules())


def test_a_tail_of_a_layer_that_does_not_run():
    class Unused(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(2, 2), nn.Linear(2, 2)

        def forward(self, x):
            return self.a(x)

    with pytest.raises(LayoutError, match="did not run"):
        Tail.of(Unused(), "b", torch.ones(1, 2))


def test_a_tail_replays_the_outputs_of_transformers():
    """`ModelOutput`s are dicts with attributes; both must be there in the replay."""
    from transformers.modeling_outputs import BaseModelOutput

    class Encoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.lin = nn.Linear(4, 4)

        def forward(self, x):
            return BaseModelOutput(last_hidden_state=self.lin(x), hidden_states=(x, x + 1))

    class Whole(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder, self.norm, self.head = Encoder(), nn.LayerNorm(4), nn.Linear(4, 2)

        def forward(self, x):
            out = self.encoder(x)
            return self.head(self.norm(out.last_hidden_state) + out["hidden_states"][1] + out[0])

    module, x = Whole().eval().requires_grad_(False), torch.randn(2, 4)
    want = module(x).repeat(2, 1)
    tail = Tail.of(module, "norm", x)
    with tail.put(tail.value.repeat(2, 1)) as again:
        torch.testing.assert_close(module(again), want)
