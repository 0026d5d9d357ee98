"""Every registered method keeps its contract on every toy that can serve it."""

from __future__ import annotations

import pytest
import toys
import trained

from seewhy.checks import check_method
from seewhy.core.cards import Capability
from seewhy.methods import METHODS

TOYS = {
    "cnn": toys.toy_cnn(),
    "class_token": toys.toy_vit(),
    "registers": toys.toy_vit(prefix=5),
    "patch_mean": toys.toy_vit(prefix=0, pool="mean"),
}
SERVED = [(cls, toy) for cls in METHODS.values() for toy, model in TOYS.items() if not cls.why_incompatible(model)]
ABOUT_TOKENS = {Capability.TOKENS, Capability.ATTENTION, Capability.LAST_BLOCK, Capability.CLASS_TOKEN}


def case(cls, toy):
    """Slow if another toy shows almost the same: registers come with a class token, pooling is for token methods."""
    twice = toy == "class_token" or (toy == "patch_mean" and not cls.card.needs & ABOUT_TOKENS)
    return pytest.param(cls, toy, id=f"{cls.card.name}-{toy}", marks=pytest.mark.slow if twice else ())


@pytest.mark.parametrize(("cls", "toy"), [case(*pair) for pair in SERVED])
def test_method(cls, toy):
    options = {}
    if cls.card.trained:  # the checks change weights, and the map must follow them
        options = {"weights": trained.fit(cls.card.name, TOYS[toy]).fitted, "verify": False}
    check_method(cls, TOYS[toy], toys.batch(3), options=options)


def test_every_method_is_served_by_a_toy():
    assert {cls for cls, _ in SERVED} == set(METHODS.values())
