"""Tokens of blocks with their graph, and reading them through the head: one forward, nothing runs twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest
import torch
from torch import Tensor
from toys import batch, toy_cnn, toy_vit

import seewhy
from seewhy.errors import LayoutError, RequirementError, UnknownNameError
from seewhy.models.adapter import VisionModel
from seewhy.models.instrument.hooks import hooked, untouched


def scenes_vit() -> VisionModel:
    return seewhy.load_model("scenes_vit", device="cpu")


MODELS = {
    "toy_vit": lambda: (toy_vit(), batch()),
    "toy_vit, mean of patches": lambda: (toy_vit(pool="mean", prefix=3), batch()),
    "scenes_vit": lambda: (scenes_vit(), torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))),
}


@pytest.fixture(params=MODELS)
def model_and_batch(request) -> Iterator[tuple[VisionModel, Tensor]]:
    model, x = MODELS[request.param]()
    with untouched(model.module):
        yield model, x


@contextmanager
def counted_attention(model: VisionModel) -> Iterator[Counter[str]]:
    """How often the inside of each block really runs: its attention, which a replay does not touch."""
    runs: Counter[str] = Counter()
    with ExitStack() as stack:
        for block in model.structure.blocks:
            count = lambda *_, name=block.name: runs.update([name])  # noqa: E731
            stack.enter_context(hooked(model.submodule(block.attention), count))
        yield runs


def head_of(model: VisionModel, tokens: Tensor) -> Tensor:
    """The logit lens, written down by hand."""
    module = model.module
    if hasattr(module, "pooled"):
        return module.head(module.pooled(tokens))
    return module.forward_head(module.norm(tokens))


def legrad(model: VisionModel, x: Tensor, classes: Tensor) -> Tensor:
    """LeGrad (Bousselham et al., 2024), equations 4 to 8 without the final normalization: one value for each token.

    The score of each layer is read through the logit lens; its gradient with respect to that layer's attention is
    clipped, averaged over heads and queries, and summed over the layers.
    """
    matrices: dict[int, Tensor] = {}
    with torch.enable_grad():
        with model.attention(matrices.__setitem__, x, differentiable=True):
            forward = model.block_tokens(x)
        layers = sorted(forward.tokens)
        logits = forward.read_out(torch.cat([forward.tokens[i] for i in layers])).logits
        scores = logits.gather(1, classes.repeat(len(layers))[:, None]).view(len(layers), len(x))
        maps = torch.zeros(len(x), matrices[0].shape[-1])
        for i, score in zip(layers, scores, strict=True):
            (gradient,) = torch.autograd.grad(score.sum(), matrices[i], retain_graph=True)
            maps = maps + gradient.relu().mean((1, 2))
    return maps


def test_legrad_in_one_forward_is_legrad_layer_by_layer(model_and_batch) -> None:
    model, x = model_and_batch
    classes = torch.tensor([1, 3])
    with counted_attention(model) as runs:
        ours = legrad(model, x, classes)
    assert runs == dict.fromkeys((block.name for block in model.structure.blocks), 1)
    # literally: for each layer a forward of its own, and the head applied by hand
    expected = torch.zeros_like(ours)
    for i, block in enumerate(model.structure.blocks):
        matrices: dict[int, Tensor] = {}
        outputs: list[Tensor] = []
        with (
            torch.enable_grad(),
            hooked(model.submodule(block.name), lambda _, __, out, kept=outputs: kept.append(out)),
            model.attention(matrices.__setitem__, x, blocks=[i], differentiable=True),
        ):
            model.run(x)
        score = head_of(model, outputs[0]).gather(1, classes[:, None]).sum()
        (gradient,) = torch.autograd.grad(score, matrices[i])
        expected += gradient.clamp(min=0).mean(dim=(1, 2))
    torch.testing.assert_close(ours, expected, atol=1e-6, rtol=1e-4)
    assert ours.max() > 0


def test_the_output_is_that_of_the_model_and_depends_on_the_tokens(model_and_batch) -> None:
    model, x = model_and_batch
    with torch.enable_grad():
        forward = model.block_tokens(x)
        assert torch.equal(forward.output.logits, model.run(x).logits)
        for tokens in forward.tokens.values():
            (gradient,) = torch.autograd.grad(forward.output.logits.sum(), tokens, retain_graph=True)
            assert (gradient != 0).any()
    plain = model.tokens(x)
    assert list(plain) == list(forward.tokens)
    assert all(torch.equal(plain[i], forward.tokens[i]) for i in plain)


def test_without_grad_mode_there_is_no_graph(model_and_batch) -> None:
    model, x = model_and_batch
    with torch.no_grad():
        forward = model.block_tokens(x, blocks=[0, -1])
    last = len(model.structure.blocks) - 1
    assert list(forward.tokens) == [0, last]
    assert not any(tokens.requires_grad for tokens in forward.tokens.values())
    with torch.no_grad():
        torch.testing.assert_close(forward.read_out(forward.tokens[last]).logits, forward.output.logits)
        torch.testing.assert_close(forward.read_out(forward.tokens[0]).logits, head_of(model, forward.tokens[0]))


def test_rows_that_share_an_image_do_not_disturb_what_is_read_out() -> None:
    model, x = toy_vit(), batch(1).repeat(3, 1, 1, 1)
    with torch.no_grad(), untouched(model.module), model.shared_images([0, 0, 0]):
        forward = model.block_tokens(x)
        tokens = forward.tokens[0] + torch.arange(3.0)[:, None, None]  # the same image, other tokens
        torch.testing.assert_close(forward.read_out(tokens).logits, head_of(model, tokens))


def test_a_hook_that_reads_out_is_told_so_and_does_not_loop() -> None:
    """A hook on a block fires in the replay too: reading out inside of it went on for ever."""
    model, x = toy_vit(), batch()
    with torch.no_grad(), untouched(model.module):
        forward = model.block_tokens(x)
        tail = model.tail(x, model.layer("blocks.2"))
        for read_out in (forward.read_out, tail):
            hook = lambda _, __, out, read=read_out: read(out) and None  # noqa: E731
            with hooked(model.submodule("blocks.0"), hook), pytest.raises(LayoutError, match="after the forward"):
                model.run(x)
        # and it is of use again afterwards
        torch.testing.assert_close(forward.read_out(forward.tokens[2]).logits, forward.output.logits)
    assert not any(m._forward_hooks or "forward" in m.__dict__ for m in model.module.modules())


def test_blocks_and_tokens_that_do_not_exist() -> None:
    model, x = toy_vit(), batch()
    with untouched(model.module):
        forward = model.block_tokens(x)
        for wrong in (forward.tokens[0][:1], forward.tokens[0][:, 1:]):
            with pytest.raises(LayoutError, match="the shape of the last block"):
                forward.read_out(wrong)
        with pytest.raises(UnknownNameError, match="choose from 0, 1, 2"):
            model.block_tokens(x, blocks=[3])
        with pytest.raises(RequirementError, match="no transformer blocks"):
            toy_cnn().block_tokens(x)
