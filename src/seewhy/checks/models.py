"""All checks of models, and one call that runs them."""

from __future__ import annotations

import torch
from torch import Tensor

from seewhy.checks import model_layers, model_outputs  # noqa: F401 (their decorators fill MODEL_CHECKS)
from seewhy.checks.core import batch_for, run_all
from seewhy.checks.model_case import MODEL_CHECKS
from seewhy.models.adapter import VisionModel
from seewhy.models.instrument.hooks import untouched


def check_model(model: VisionModel, x: Tensor | None = None) -> dict[str, str]:
    """Run every check of an adapter.

    Args:
        model: Small is enough. One whose input is not square finds more mistakes.
        x: A preprocessed batch of at least two different images; None: three images of colored blocks.

    Returns:
        The checks that did not apply, with the reason.

    Raises:
        ContractError: A check fails; the first, with the others as its notes.
    """
    with torch.no_grad(), untouched(model.module):
        return run_all(MODEL_CHECKS, model.name, model, batch_for(model, x))
