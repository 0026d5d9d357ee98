"""Every registered method keeps its contract on every toy that can serve it."""

from __future__ import annotations

import pytest
import toys

from seewhy.checks import check_method
from seewhy.methods import METHODS

TOYS = {
    "cnn": toys.toy_cnn(),
    "class_token": toys.toy_vit(),
    "registers": toys.toy_vit(prefix=5),
    "patch_mean": toys.toy_vit(prefix=0, pool="mean"),
}
SERVED = [(cls, toy) for cls in METHODS for toy, model in TOYS.items() if not cls.unmet(model)]


@pytest.mark.parametrize(("cls", "toy"), SERVED, ids=[f"{cls.card.name}-{toy}" for cls, toy in SERVED])
def test_method(cls, toy):
    check_method(cls, TOYS[toy], toys.batch(3))


def test_every_method_is_served_by_a_toy():
    assert {cls for cls, _ in SERVED} == set(METHODS)
