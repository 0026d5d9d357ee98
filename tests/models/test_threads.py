"""Several threads explain with one module: each gets the map it would get alone, and the module is left as it came."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import toys
from models.adapter_checks import left_alone

from seewhy.methods import METHODS
from seewhy.models.adapter import VisionModel
from seewhy.models.instrument.hooks import untouched

JOBS = {
    "toy_vit": ("grad_cam", "cdam", "rollout", "attn_lrp", "saliency", "rise", "lafam"),
    "toy_cnn": ("grad_cam", "score_cam", "guided_backprop", "lrp", "saliency", "rise", "lafam"),
}
FEW = {"rise": {"n_masks": 8}}


def _maps(model: VisionModel, names: tuple[str, ...], x: torch.Tensor, threads: int) -> list[torch.Tensor]:
    def explain(job: int) -> torch.Tensor:
        name = names[job % len(names)]
        return METHODS[name](model, **FEW.get(name, {}))(x, [job % 5, 1])

    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(explain, range(3 * len(names))))


@pytest.mark.parametrize("kind", JOBS)
def test_eight_threads_get_the_maps_of_one(kind: str) -> None:
    model = getattr(toys, kind)()
    model.module.train()  # eval mode is switched on by each call, and must come off again
    names = JOBS[kind]
    x = toys.batch()
    alone = _maps(model, names, x, threads=1)
    with left_alone(model.module):
        together = _maps(model, names, x, threads=8)
    for job, (one, other) in enumerate(zip(alone, together, strict=True)):
        assert torch.equal(one, other), names[job % len(names)]


def test_two_modules_that_share_a_part_wait_for_each_other() -> None:
    part = toys.ToyViT()
    order: list[str] = []

    def enter(name: str, module: torch.nn.Module) -> None:
        with untouched(module):
            order.append(name)
            torch.randn(10**6).sort()
            order.append(name)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(enter, ("whole", "part"), (torch.nn.Sequential(part), part)))
    assert order[0] == order[1]
    assert order[2] == order[3]
