"""What the contract check `check_cost` does not ask: other layers than the default, chunks, and where a forward stops.

A batch of two images, so one pass of the batch is 2.
"""

from __future__ import annotations

import pytest
import torch
from toys import batch, toy_cnn, toy_vit

from seewhy.bench.speed.memory import peak_bytes
from seewhy.checks.core import few_repetitions
from seewhy.checks.state import PassCounter, WeightGradients
from seewhy.core.cards import Cost, Passes
from seewhy.methods import (
    RISE,
    AttentionMap,
    GradCAM,
    IntegratedCDAM,
    IntegratedGradients,
    LaFAM,
    Occlusion,
    Rollout,
    Saliency,
    ScoreCAM,
    SmoothCDAM,
)

NONE = Passes(0)
FORWARD = Passes(2)
BOTH = Passes(2, 2)


def count(method, target=None):
    counter = PassCounter(method.model)
    method(batch(), target)
    return counter


def test_the_counter_counts():
    model = toy_cnn()
    counter = PassCounter(model)
    with WeightGradients() as weights:
        model.module(batch(3)).sum().backward()
    assert counter.passes("stage1") == counter.passes("stage2") == counter.passes("head") == Passes(3, 3)
    assert counter.parameter_gradients == len(list(model.module.parameters()))
    assert weights.computed


def test_lafam_runs_nothing_above_its_layer():
    counter = count(LaFAM(toy_cnn(), layer="stage1"))
    assert counter.passes("stage1") == FORWARD
    assert counter.passes("stage2") == counter.passes("head") == NONE
    counter = count(LaFAM(toy_cnn(), layer="stage2.0"))
    assert counter.passes("stage2.0") == FORWARD
    assert counter.passes("stage2.1") == NONE
    counter = count(LaFAM(toy_vit(), layer=1))
    assert counter.passes("blocks.1") == FORWARD
    assert counter.passes("blocks.2") == counter.passes("norm") == counter.passes("head") == NONE


@pytest.mark.parametrize("layer", ["stage1", "stage2"])
def test_grad_cam_differentiates_from_its_layer_up(layer):
    counter = count(GradCAM(toy_cnn(), layer=layer), [3, 1])
    assert counter.passes("head") == BOTH
    assert counter.passes("stage1") == FORWARD
    assert counter.passes("stage2") == (BOTH if layer == "stage1" else FORWARD)


@pytest.mark.parametrize(("cls", "n"), [(SmoothCDAM, "n_samples"), (IntegratedCDAM, "n_steps")])
@pytest.mark.parametrize("batch_size", [1, 100])
@pytest.mark.parametrize("at", ["block_input", "norm1"])
@pytest.mark.parametrize("pool", ["cls", "mean"])
def test_smooth_and_integrated_cdam_run_the_trunk_once(cls, n, batch_size, at, pool):
    counter = count(cls(toy_vit(pool=pool), at=at, **{n: 5}, batch_size=batch_size), [3, 1])
    passes = 2 * (4 if cls is IntegratedCDAM and at == "block_input" else 5)
    for trunk in ("patch_embed", "blocks.0", "blocks.1"):
        assert counter.passes(trunk) == FORWARD
    assert counter.passes("blocks.2.norm1") == (FORWARD if at == "norm1" else Passes(passes, 0))
    probe = pool == "cls"  # the class token alone: then the projections are read out once
    assert counter.passes("blocks.2.attn.qkv") == Passes(passes + probe, 0 if probe else passes)
    for above in ("blocks.2.attn.proj", "blocks.2.mlp", "norm", "head"):
        assert counter.passes(above) == Passes(passes, passes)


REPEATED = [
    (IntegratedGradients, {"n_steps": 16}),
    (RISE, {"n_masks": 16}),
    (Occlusion, {"window": 112, "stride": 112}),
    (ScoreCAM, {"top_k": 8}),
]


@pytest.mark.parametrize(("cls", "options"), REPEATED)
def test_larger_images_go_through_in_smaller_passes(cls, options):
    """So memory does not grow with the image: 16 of 224 × 224 pixels or 4 of 448 × 448, with the same map."""
    model = toy_cnn()
    rows: list[int] = []
    handle = model.module.head.register_forward_pre_hook(lambda _, args: rows.append(len(args[0])))
    peaks = {}
    for side, most in ((224, 8), (448, 2)):
        rows.clear()
        x = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0))
        given = {**options, "window": side // 4, "stride": side // 4} if cls is Occlusion else options
        method = cls(model, **given, batch_size=8)
        peaks[side] = peak_bytes(lambda method=method, x=x: method(x, 1), torch.device("cpu"))
        assert max(rows) == most
    assert peaks[448] < 2 * peaks[224]
    handle.remove()
    torch.testing.assert_close(method(x, 1), cls(model, **given, batch_size=64)(x, 1), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("block", [0, -1])
def test_the_attention_map_stops_inside_its_attention(block):
    counter = count(AttentionMap(toy_vit(), block=block))
    last = range(3)[block]
    assert counter.passes(f"blocks.{last}.attn.qkv") == FORWARD
    for above in (f"blocks.{last}.attn.proj", f"blocks.{last}.mlp", "norm"):
        assert counter.passes(above) == NONE
    assert counter.passes("blocks.1") == (NONE if block == 0 else FORWARD)


def test_rollout_stops_inside_the_last_attention():
    counter = count(Rollout(toy_vit()))
    assert counter.passes("blocks.0") == counter.passes("blocks.2.attn.qkv") == FORWARD
    assert counter.passes("blocks.2.attn.proj") == counter.passes("blocks.2.mlp") == counter.passes("head") == NONE


LAYERWISE = Cost.transformer(embedding=Passes(1), blocks=Passes(2, 1), head=Passes(13, 12))


@pytest.mark.parametrize(
    ("cost", "words"),
    [
        (Cost.whole(0), "no pass"),
        (Cost.whole(1, 1), "1 forward, 1 backward"),
        (Cost.split(below=Passes(1), above=Passes(0)), "1 forward up to the layer"),
        (Cost.split(below=Passes(1), above=Passes(1, 1)), "1 forward, 1 backward above the layer"),
        (Cost.split(below=Passes(1, 1), above=Passes(0)), "1 forward up to the layer, 1 backward below the layer"),
        (Cost.split(below=Passes(1, 1), above=Passes(1, 2)), "1 forward, 1 backward below the layer and 2 above"),
        (
            Cost.split(below=Passes(1), above=Passes(50, 50)),
            "1 forward up to the layer and 50 above, 50 backward above the layer",
        ),
        (
            LAYERWISE,
            "1 forward through the embedding, 2 through the blocks and 13 through the head, "
            "1 backward through the blocks and 12 through the head",
        ),
    ],
)
def test_costs_in_words(cost, words):
    assert str(cost) == words


def test_totals_of_a_cost():
    assert (LAYERWISE.forward, LAYERWISE.backward, LAYERWISE.complete_forwards) == (13, 12, 1)


@pytest.mark.parametrize(("cls", "extra"), [(IntegratedGradients, 2), (SmoothCDAM, 2), (GradCAM, 0), (Saliency, 0)])
def test_settling_the_models_own_answer_costs_one_forward_and_only_for_many_passes(cls, extra):
    forwards = [
        count(cls(toy_vit(), **few_repetitions(cls)), target).passes("patch_embed").forward for target in (None, 3)
    ]
    assert forwards[0] == forwards[1] + extra
