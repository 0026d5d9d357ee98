"""The toys keep the contract of adapters: what the other tests take for granted."""

from __future__ import annotations

import pytest
import toys

from seewhy.checks import MODEL_CHECKS

MODELS = {
    "cnn": toys.toy_cnn(),
    "class_token": toys.toy_vit(),
    "registers": toys.toy_vit(prefix=5),
    "patch_mean": toys.toy_vit(prefix=0, pool="mean"),
}


@pytest.mark.parametrize(("name", "check"), MODEL_CHECKS, ids=[name for name, _ in MODEL_CHECKS])
@pytest.mark.parametrize("toy", MODELS)
def test_model(toy, name, check):
    check(MODELS[toy], toys.batch(3))
