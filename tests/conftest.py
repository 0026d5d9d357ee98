"""Fixtures, and what must happen before seewhy or torchvision is imported."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from jaxtyping import install_import_hook
from PIL import Image
from torchvision_ops import define_missing_operators

install_import_hook("seewhy", "typechecker.check")  # shapes in signatures are checked in tests only
os.environ.setdefault("OMP_NUM_THREADS", "1")  # for the processes that tests start

_TORCHVISION_OPS = define_missing_operators()  # the definitions live as long as this object

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)
    np.random.seed(0)


@pytest.fixture(scope="session")
def _photos() -> dict[str, np.ndarray]:
    from skimage import data

    return {"cat": data.chelsea(), "coffee": data.coffee()}


@pytest.fixture
def cat(_photos: dict[str, np.ndarray]) -> Image.Image:
    """A tabby cat, 451 wide and 300 high."""
    return Image.fromarray(_photos["cat"])


@pytest.fixture
def coffee(_photos: dict[str, np.ndarray]) -> Image.Image:
    """A cup of espresso, 600 wide and 400 high."""
    return Image.fromarray(_photos["coffee"])


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The developers' real images beside the checkout; tests that need them skip without."""
    path = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not path.is_dir():
        pytest.skip(f"needs the developers' images in {path}")
    return path
