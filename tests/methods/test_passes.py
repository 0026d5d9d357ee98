"""Nothing is computed that the equation does not need: images counted through every module, forwards and backwards.

A batch of two images, so one pass of the batch is 2.
"""

from __future__ import annotations

import pytest
from passes import counted
from small import NAMES, PAIRS, build, target_for
from toys import batch, toy_cnn, toy_vit

from seewhy.core.cards import Cost, Passes
from seewhy.methods import (
    CDAM,
    NAVE,
    AttentionMap,
    ConceptCDAM,
    GradCAM,
    InputXGradient,
    IntegratedCDAM,
    IntegratedGradients,
    LaFAM,
    Rollout,
    Saliency,
    SmoothCDAM,
    SmoothGrad,
    TokenAblation,
)

NONE = (0, 0)


def passes(method, target=None):
    with counted(method.model.module) as found:
        method(batch(), target)
    return found


def test_the_counter_counts():
    model = toy_cnn()
    with counted(model.module) as found:
        model.module(batch(3)).sum().backward()
    assert found.of("stage1") == found.of("stage2") == found.of("head") == (3, 3)
    assert ("convolution_backward", [True, True, True]) in found.masks
    assert "forward" not in model.module.head.__dict__


def test_lafam_runs_nothing_above_its_layer():
    found = passes(LaFAM(toy_cnn(), layer="stage1"))
    assert found.of("stage1") == (2, 0)
    assert found.of("stage2") == found.of("head") == NONE
    found = passes(LaFAM(toy_cnn(), layer="stage2.0"))
    assert found.of("stage2.0") == (2, 0)
    assert found.of("stage2.1") == NONE
    found = passes(LaFAM(toy_vit(), layer=1))
    assert found.of("blocks.1") == (2, 0)
    assert found.of("blocks.2") == found.of("norm") == found.of("head") == NONE


@pytest.mark.parametrize("layer", ["stage1", "stage2"])
def test_grad_cam_differentiates_from_its_layer_up(layer):
    found = passes(GradCAM(toy_cnn(), layer=layer), [3, 1])
    assert found.of("head") == (2, 2)
    assert found.of("stage1") == (2, 0)
    assert found.of("stage2") == (2, 2 if layer == "stage1" else 0)


@pytest.mark.parametrize("cls", [CDAM, ConceptCDAM, GradCAM])
def test_cdam_differentiates_the_last_block_only(cls):
    model = toy_vit()
    found = passes(cls(model), target_for(cls))
    for trunk in ("patch_embed", "blocks.0", "blocks.1", "blocks.2.norm1"):
        assert found.of(trunk) == (2, 0)
    for above in ("blocks.2.attn", "blocks.2.mlp", "norm"):
        assert found.of(above) == (2, 2)
    assert found.forward["blocks.2"] == 2


@pytest.mark.parametrize(("cls", "n"), [(SmoothCDAM, "n_samples"), (IntegratedCDAM, "n_steps")])
@pytest.mark.parametrize("batch_size", [1, 100])
def test_smooth_and_integrated_cdam_run_the_trunk_once(cls, n, batch_size):
    found = passes(cls(toy_vit(), **{n: 5}, batch_size=batch_size), [3, 1])
    for trunk in ("patch_embed", "blocks.0", "blocks.1", "blocks.2.norm1"):
        assert found.of(trunk) == (2, 0)
    for above in ("blocks.2.attn", "blocks.2.mlp", "norm", "head"):
        assert found.of(above) == (10, 10)


@pytest.mark.parametrize("block", [0, -1])
def test_the_attention_map_stops_inside_its_attention(block):
    found = passes(AttentionMap(toy_vit(), block=block))
    last = range(3)[block]
    assert found.of(f"blocks.{last}.attn.qkv") == (2, 0)
    assert found.of(f"blocks.{last}.attn.proj") == found.of(f"blocks.{last}.mlp") == found.of("norm") == NONE
    assert found.of("blocks.1") == (NONE if block == 0 else (2, 0))


def test_rollout_stops_inside_the_last_attention():
    found = passes(Rollout(toy_vit()))
    assert found.of("blocks.0") == found.of("blocks.2.attn.qkv") == (2, 0)
    assert found.of("blocks.2.attn.proj") == found.of("blocks.2.mlp") == found.of("head") == NONE


@pytest.mark.parametrize(
    ("cls", "options", "n"),
    [
        (Saliency, {}, 1),
        (InputXGradient, {}, 1),
        (SmoothGrad, {"n_samples": 5}, 5),
        (IntegratedGradients, {"n_steps": 5}, 5),
    ],
)
def test_the_gradient_family_runs_forwards_and_backwards_as_often_as_it_says(cls, options, n):
    found = passes(cls(toy_cnn(), **options), [3, 1])
    for everywhere in ("stage1", "stage2", "head"):
        assert found.of(everywhere) == (2 * n, 2 * n)


def test_token_ablation_runs_once_for_each_patch_and_once_more():
    found = passes(TokenAblation(toy_vit(), batch_size=10), [3, 1])
    assert found.of("blocks.0") == found.of("head") == (2 * 25, 0)


@pytest.mark.parametrize(("cls", "make"), PAIRS, ids=NAMES)
def test_cost_is_what_is_counted(cls, make):
    """The first module is below every cut, the head above every cut."""
    method = build(cls, make())
    found = passes(method, target_for(cls))
    first = "stage1.0" if make is toy_cnn else "patch_embed"
    above = "blocks.2.mlp" if make is toy_vit and cls not in (LaFAM, NAVE) else "head"  # a concept needs no head
    parts = list(method.cost.parts.values())
    assert found.of(first) == (2 * parts[0].forward, 2 * parts[0].backward)
    assert found.of(above) == (2 * parts[-1].forward, 2 * parts[-1].backward)


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
    model = toy_vit()
    forwards = [passes(build(cls, model), target).of("patch_embed")[0] for target in (None, 3)]
    assert forwards[0] == forwards[1] + extra


@pytest.mark.parametrize("trains", [True, False], ids=["trainable", "frozen"])
@pytest.mark.parametrize(("cls", "make"), PAIRS, ids=NAMES)
def test_no_method_computes_gradients_of_parameters(cls, make, trains):
    model, fired = make(), []
    model.module.requires_grad_(trains)
    if trains:
        for parameter in model.module.parameters():
            parameter.register_hook(lambda grad: fired.append(grad.shape))
    found = passes(build(cls, model), target_for(cls))
    assert not fired
    assert all(p.grad is None and p.requires_grad is trains for p in model.module.parameters())
    assert all(not weight and not bias for _, (_, weight, bias) in found.masks)


@pytest.mark.parametrize(("cls", "make"), PAIRS, ids=NAMES)
def test_gradients_that_were_there_stay(cls, make):
    model = make()
    model.module(batch()).sum().backward()
    before = {n: p.grad.clone() for n, p in model.module.named_parameters()}
    build(cls, model)(batch(), target_for(cls))
    for name, parameter in model.module.named_parameters():
        assert parameter.grad.equal(before[name])
