"""The public checks of adapters on real modules of the libraries: they hold, and they raise no false alarm."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("timm")
pytest.importorskip("transformers")

from test_matrix import MODELS, size_of

from seewhy.checks import check_model


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_adapter_keeps_its_contract(name):
    check_model(MODELS[name](), torch.randn(2, 3, *size_of(name)))
