"""Changed patches show where tokens lie: wrong orders, prefixes and grids are found, right models are not refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import toys
from models.adapter_checks import image, left_alone
from torch import Tensor
from toys import ToyViT

from seewhy.checks import ContractError, check_cell_locations
from seewhy.errors import LayoutError
from seewhy.methods import METHODS
from seewhy.models import probe
from seewhy.models.infer.wrapping import wrap
from seewhy.models.structure import Layer

SIZE = (32, 48)


class Reordered(ToyViT):
    """A ViT whose patch tokens come in another order: 2 × 2 units one after the other, or shuffled anew each time."""

    def __init__(self, order: str, prefix: int = 0) -> None:
        super().__init__(SIZE, prefix=prefix, pool="mean")
        numbers = torch.arange(24).unflatten(0, (4, 6))
        units = numbers.unflatten(0, (2, 2)).unflatten(2, (3, 2)).permute(0, 2, 1, 3).flatten()
        self.order = {"units": units, "columns": numbers.T.flatten(), "shuffled": torch.arange(24)}[order]
        self.kind = order

    def embed(self, x: Tensor) -> Tensor:
        tokens = super().embed(x)
        order = torch.randperm(24) if self.kind == "shuffled" else self.order
        return torch.cat([tokens[:, : self.prefix], tokens[:, self.prefix :][:, order]], 1)


@pytest.mark.parametrize("prefix", [0, 2])
@pytest.mark.parametrize("order", ["units", "columns"])
def test_another_order_of_tokens_is_found_and_undone(order: str, prefix: int) -> None:
    module = Reordered(order, prefix).eval()
    with left_alone(module):
        model = wrap(module, input_size=SIZE)
    layer = model.cam_layer()
    assert layer.order is not None
    assert torch.equal(module.order[torch.tensor(layer.order).flatten()], torch.arange(24))
    assert "do not come row by row" in model.structure.note
    x = image(*SIZE)
    plain = ToyViT(SIZE, prefix=prefix, pool="mean").eval()
    plain.load_state_dict(module.state_dict())
    # attention and the mean over tokens do not depend on their order, so the ordered map is that of the plain model
    expected = METHODS["grad_cam"](wrap(plain, input_size=SIZE), relu=False)(x, 1)
    torch.testing.assert_close(METHODS["grad_cam"](model, relu=False)(x, 1), expected, atol=1e-5, rtol=1e-4)
    with pytest.raises(LayoutError, match="known for 4×6 cells"):
        model.to_grid(torch.zeros(1, prefix + 4, 16), layer, (16, 16))


def test_tokens_shuffled_in_each_forward_are_refused_unless_the_user_takes_the_blame() -> None:
    module = Reordered("shuffled").eval()
    with pytest.raises(LayoutError, match="verify=False"):
        wrap(module, input_size=SIZE)
    assert wrap(module, input_size=SIZE, verify=False).structure.stages


@pytest.mark.parametrize("shift", [-1, 1])
def test_a_prefix_counted_wrongly_is_found_by_each_block(shift: int) -> None:
    """The last patch token is dropped in the module, or doubled, so that the wrong number of tokens fits the grid."""

    class Shifted(ToyViT):
        def embed(self, x: Tensor) -> Tensor:
            tokens = super().embed(x)
            return tokens[:, 1:] if shift < 0 else torch.cat([tokens[:, :1], tokens], 1)

    torch.manual_seed(0)
    right = toys.toy_vit(prefix=2)
    wrong = replace(right.structure, prefix_tokens=2 + shift)
    module = Shifted(SIZE, prefix=2).eval()
    model = type(right)(module, right.structure, preprocess=right.preprocess)
    model.structure = replace(wrong, prefix_tokens=2 + shift)
    assert all(found.is_right for found in probe.locate(model))
    # the same tokens, taken for 4 × 6 patches that begin one token too early or too late
    off = Layer("blocks.0", "tokens", prefix=2 + shift)
    drop = replace(off, order=tuple(tuple((6 * r + c + 1) % 24 for c in range(6)) for r in range(4)))
    (found,) = probe.locate(model, [drop])
    assert found.is_wrong
    assert found.exact == 0
    assert "prefix tokens right?" in str(found)


def test_a_grid_with_swapped_sides_breaks_the_contract() -> None:
    model = toys.toy_vit()
    swapped = tuple(tuple(4 * c + r for c in range(6)) for r in range(4))
    stages = tuple(replace(stage, order=swapped) for stage in model.structure.stages)
    model.structure = replace(model.structure, stages=stages)
    with pytest.raises(ContractError, match="changed patches show in their place"):
        check_cell_locations(model)


@pytest.mark.parametrize("make", [toys.toy_cnn, toys.toy_vit, lambda: toys.toy_vit(prefix=5, pool="mean")])
def test_right_models_are_right_and_left_alone(make) -> None:
    model = make()
    state = torch.get_rng_state()
    with left_alone(model.module):
        found = probe.locate(model)
    assert torch.equal(torch.get_rng_state(), state)
    assert found
    assert all(located.right == located.pokes for located in found), list(map(str, found))
    names = {located.name for located in found}
    assert names >= {layer.name for layer in model.structure.stages}
    assert names >= {block.attention for block in model.structure.blocks[-1:]}


def test_an_architecture_is_probed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    probe._SEEN.clear()
    runs: list[int] = []
    poked = probe._poked
    monkeypatch.setattr(probe, "_poked", lambda *args: (runs.append(1), poked(*args))[1])
    for _ in range(2):
        wrap(ToyViT(SIZE), input_size=SIZE)
    assert len(runs) == 1
    wrap(ToyViT(SIZE, depth=2), input_size=SIZE)
    assert len(runs) == 2
