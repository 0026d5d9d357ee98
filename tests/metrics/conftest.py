"""Models and images that the tests of metrics share."""

from __future__ import annotations

import pytest
from toys import batch, toy_cnn, toy_vit


@pytest.fixture(params=[toy_cnn, toy_vit], ids=["cnn", "vit"])
def model(request):
    """Both kinds of model, in double precision: what is compared with loops is compared to the last digits."""
    model = request.param()
    model.module.double().eval()
    return model


@pytest.fixture
def x():
    """Two images for it."""
    return batch().double()
