"""What the tests of faithfulness share: small options, maps, a linear model, and counting what the model is asked."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch
from torch import nn

from seewhy.core.preprocess import Preprocess
from seewhy.metrics import METRICS, MetricInputs
from seewhy.models.adapter import VisionModel
from seewhy.models.structure import Structure
from seewhy.targets import Output

CLASSES = [3, 1]
SMALL = {
    "fidelity": {"n_steps": 5},
    "fidelity_discrimination": {"n_steps": 5},
    "box_sensitivity": {"sizes": (3, 9, 20), "n_samples": 7},
    "box_discrimination": {"sizes": (3, 9, 20), "n_samples": 7},
    "infidelity": {"sizes": (3, 9), "n_samples": 7},
    "insertion": {"n_steps": 6},
    "deletion": {"n_steps": 6},
    "id_score": {"n_steps": 6},
    "road": {"percentages": (40, 85)},
}
OURS = {cls.card.name: cls for cls in METRICS.values() if cls.card.property == "faithfulness"}
every = pytest.mark.parametrize("name", sorted(OURS))


def small(name, **options):
    return OURS[name](**{**SMALL[name], **options})


def some_maps(n=2, seed=5):
    return torch.randn(n, 32, 48, generator=torch.Generator().manual_seed(seed)).double()


def known(model, x, target=CLASSES, n=None):
    return MetricInputs(model=model, x=x, target=target, contrast_maps=some_maps(len(x) if n is None else n, seed=6))


@contextmanager
def counting(model):
    seen = []
    handle = model.module.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    try:
        yield seen
    finally:
        handle.remove()


class Linear(nn.Module):
    """f_c = Σ w_c x."""

    def __init__(self, same_for_channels=False):
        super().__init__()
        weight = torch.randn(4, 1 if same_for_channels else 3, 32, 48, generator=torch.Generator().manual_seed(2))
        self.weight = nn.Parameter(weight.expand(4, 3, 32, 48).double().clone())

    def forward(self, x):
        return torch.einsum("bchw,kchw->bk", x, self.weight)


def linear(**options):
    structure = Structure(
        "toy", has_logits=True, has_embedding=False, classes=4, read=lambda raw, _: Output(logits=raw)
    )
    return VisionModel(Linear(**options), structure, preprocess=Preprocess(size=(32, 48), resize=None))
