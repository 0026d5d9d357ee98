"""Several targets of one picture: the same maps as one by one, and where nothing is differentiated no forward twice."""

from __future__ import annotations

import pytest
import torch
from small import build, target_for
from torch import Tensor
from toys import batch, toy_cnn, toy_vit

from seewhy.core.cards import Capability
from seewhy.methods import METHODS

TOYS = {"cnn": toy_cnn, "vit": toy_vit}
PAIRS = [(cls, toy) for toy, make in TOYS.items() for cls in METHODS.values() if not cls.why_incompatible(make())]
OF = [1, 0, 1, 1]


@pytest.mark.parametrize(("cls", "toy"), PAIRS, ids=lambda v: v if isinstance(v, str) else v.card.name)
def test_a_map_is_the_same_whatever_else_is_asked_of_its_picture(cls: type, toy: str) -> None:
    model = TOYS[toy]()
    goal = target_for(cls)
    target = [0, 1, 2, 0] if isinstance(goal, list) else goal
    method, x = build(cls, model), batch(2)
    torch.testing.assert_close(method(x, target, image_index=OF), method(x[OF], target), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("cls", "toy"),
    [p for p in PAIRS if p[0].card.class_specific and Capability.GRADIENTS not in p[0].card.needs],
    ids=lambda v: v if isinstance(v, str) else v.card.name,
)
def test_a_picture_runs_once_for_all_its_targets(cls: type, toy: str) -> None:
    model = TOYS[toy]()
    rows: list[int] = []

    def count(_: object, args: tuple[Tensor]) -> None:
        rows.append(len(args[0]))

    model.module.register_forward_pre_hook(count)
    method, x = build(cls, model), batch(2)
    method(x, [0, 1])
    alone, rows[:] = sum(rows), []
    method(x, [0, 1, 2, 0], image_index=OF)
    assert sum(rows) == alone
