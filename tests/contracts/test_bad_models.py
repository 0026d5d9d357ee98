"""For each check of adapters, bad adapters that it must catch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import toys
from torch import Tensor, nn

from seewhy.checks import MODEL_CHECKS, ContractError, check_model
from seewhy.models.adapter import VisionModel
from seewhy.models.structure import Layer

CHECKS = dict(MODEL_CHECKS)
CASES: list[tuple[str, Callable[[], VisionModel], str]] = []


def sabotages(check: str, says: str) -> Callable[[Callable], Callable]:
    """A maker of a model that `check` must find out, with a message that has the words `says`."""

    def enter(make: Callable[[], VisionModel]) -> Callable[[], VisionModel]:
        CASES.append((check, make, says))
        return make

    return enter


def told(model: VisionModel, **wrong: Any) -> VisionModel:
    """The model with a structure that is wrong in some place."""
    model.structure = replace(model.structure, **wrong)
    return model


def behaving(model: VisionModel, **methods: Callable) -> VisionModel:
    """The model with methods of its own."""
    model.__class__ = type("Bad", (VisionModel,), methods)
    return model


# ── what it says ──────────────────────────────────────────────────────────────────────────────────────────────────────
@sabotages("check_capabilities", "a run gives logits, but it does not offer them")
def hides_its_logits():
    return told(toys.toy_cnn(), has_logits=False)


@sabotages("check_capabilities", "says 7 classes and gives 5")
def miscounts_its_classes():
    return told(toys.toy_cnn(), classes=7)


@sabotages("check_capabilities", "4 class names for 5 logits")
def has_too_few_names():
    model = toys.toy_cnn()
    model.class_names = model.class_names[:4]
    return model


@sabotages("check_capabilities", "prefix_tokens of 1 or more")
def has_a_class_token_nowhere():
    return told(toys.toy_vit(prefix=0, pool="mean"), class_token=True)


@sabotages("check_capabilities", "no gradient with respect to the input")
def detaches():
    def run(self, x):
        with torch.no_grad():
            return VisionModel.run(self, x)

    return behaving(toys.toy_cnn(), run=run)


@sabotages("check_output_equals_module", "logits of the adapter and of the plain module differ")
def warms_its_logits():
    def run(self, x):
        output = VisionModel.run(self, x)
        return replace(output, logits=output.logits / 1.0001)

    return behaving(toys.toy_cnn(), run=run)


@sabotages("check_embedding_feeds_head", "it is not the head")
def takes_a_norm_for_the_head():
    return told(toys.toy_vit(), head="norm")


class TwoHeads(toys.ToyCNN):
    """The second head runs, and nothing comes of it."""

    def __init__(self) -> None:
        super().__init__()
        self.other = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        features = self.stage2(self.stage1(x)).mean((2, 3))
        self.other(features)
        return self.head(features)


@sabotages("check_embedding_feeds_head", "the logits do not depend on 'other'")
def takes_the_unused_head():
    model = toys.toy_cnn()
    model.module = TwoHeads()
    return told(model, head="other")


@sabotages("check_embedding_feeds_head", "different images have the same embedding")
def always_embeds_the_same():
    def run(self, x):
        output = VisionModel.run(self, x)
        return replace(output, embedding=output.embedding[:1].expand_as(output.embedding))

    return behaving(toys.toy_cnn(), run=run)


# ── grids and tokens ──────────────────────────────────────────────────────────────────────────────────────────────────
@sabotages("check_stage_grids", "wrong axes")
def takes_channels_for_columns():
    return told(toys.toy_cnn(), stages=(Layer("stage1", "nhwc"),))


@sabotages("check_stage_grids", "has a grid of")
def lists_its_stages_backwards():
    model = toys.toy_cnn()
    return told(model, stages=model.structure.stages[::-1])


@sabotages("check_token_count", r"\(3, 29, 16\); expected 1 \+ 4×6 tokens")
def forgets_its_registers():
    return told(toys.toy_vit(prefix=5), prefix_tokens=1)


class ColumnByColumn(toys.ToyViT):
    """Its tokens run down the columns of the image."""

    def embed(self, x: Tensor) -> Tensor:
        patches = self.patch_embed(x).mT.flatten(2).transpose(1, 2)
        return torch.cat([self.tokens.expand(len(x), -1, -1), patches], 1) + self.pos_embed


class RegistersLast(toys.ToyViT):
    """A class token first, and registers after the patches."""

    def embed(self, x: Tensor) -> Tensor:
        tokens = super().embed(x)
        return torch.cat([tokens[:, :1], tokens[:, self.prefix :], tokens[:, 1 : self.prefix]], 1)


@sabotages("check_cell_locations", "3 of 7 changed patches show in their place")
def counts_down_the_columns():
    model = toys.toy_vit()
    model.module.__class__ = ColumnByColumn
    return model


@sabotages("check_cell_locations", "0 of 7 changed patches show in their place")
def has_its_registers_elsewhere():
    model = toys.toy_vit(prefix=5)
    model.module.__class__ = RegistersLast
    return model


@sabotages("check_cell_locations", "0 of them exactly")
def has_patches_of_another_shape():
    return told(toys.toy_vit(), patch_size=(4, 16))


@sabotages("check_layer_lookup", "an unknown layer raises no UnknownNameError")
def guesses_layers():
    def layer(self, spec=None, **kwargs):
        return VisionModel.layer(self, None if spec == "no_such_layer" else spec, **kwargs)

    return behaving(toys.toy_cnn(), layer=layer)


# ── opening it up ─────────────────────────────────────────────────────────────────────────────────────────────────────
@sabotages("check_attention_rows", "no distribution")
def hands_out_logits_of_attention():
    def attention(self, receive, x, **kwargs):
        return VisionModel.attention(self, lambda block, matrix: receive(block, 2 * matrix), x, **kwargs)

    return behaving(toys.toy_vit(), attention=attention)


@sabotages("check_attention_rows", "one row differs")
def hands_out_the_last_row():
    def attention(self, receive, x, rows=slice(None), **kwargs):
        return VisionModel.attention(self, receive, x, rows=slice(-1, None) if rows.stop else rows, **kwargs)

    return behaving(toys.toy_vit(), attention=attention)


@sabotages("check_tail", "the answer differs")
def goes_on_with_another_image():
    def tail(self, x, layer):
        return VisionModel.tail(self, x.flip(0), layer)

    return behaving(toys.toy_cnn(), tail=tail)


@sabotages("check_cam_layer_reached", "24 of 24 cells")
def explains_tokens_that_nobody_reads():
    return told(toys.toy_vit(), cam_layer=Layer("blocks.2", "tokens"), class_token=False)


@sabotages("check_cam_layer_reached", "LayoutError")
def explains_behind_the_last_attention():
    return told(toys.toy_vit(), cam_layer=Layer("blocks.2", "tokens"))


class NormalizesOverTheBatch(toys.ToyCNN):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x - x.mean(0))


@sabotages("check_output_independent_of_batch", "the answer differs")
def looks_at_its_neighbors():
    model = toys.toy_cnn()
    model.module.__class__ = NormalizesOverTheBatch
    return model


class OneGrid(toys.ToyCNN):
    """Squeezes every image to one size."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(nn.functional.adaptive_avg_pool2d(x, (32, 48)))


@sabotages("check_other_input_sizes", "an image twice as wide takes stage1 from 16×24 to")
def squeezes_every_image():
    model = toys.toy_cnn()
    model.module.__class__ = OneGrid
    return model


@sabotages("check_other_input_sizes", "RuntimeError")
def breaks_on_another_size():
    def forward_checked(self, x):
        return self.run(x)

    return behaving(toys.toy_vit(), forward_checked=forward_checked)


@sabotages("check_module_untouched", "after forward_checked, training of")
def leaves_eval_mode():
    def forward_checked(self, x):
        self.module.eval()
        return VisionModel.forward_checked(self, x)

    return behaving(toys.toy_cnn(), forward_checked=forward_checked)


@sabotages("check_module_untouched", "after activations of a wrong input, forward_hooks")
def cleans_up_on_success_only():
    def activations(self, x, layers):
        handle = self.module.register_forward_hook(lambda *_: None)
        found = VisionModel.activations(self, x, layers)
        handle.remove()
        return found

    return behaving(toys.toy_cnn(), activations=activations)


@sabotages("check_module_untouched", "after activations, the values of buffer")
def reads_in_training_mode():
    def activations(self, x, layers):
        self.module(x)
        return VisionModel.activations(self, x, layers)

    return behaving(toys.toy_cnn(), activations=activations)


@pytest.mark.parametrize(("check", "make", "says"), CASES, ids=[f"{c}-{m.__name__}" for c, m, _ in CASES])
def test_saboteur_is_caught(check, make, says):
    with pytest.raises(ContractError, match=says) as caught:
        CHECKS[check](make(), toys.batch(3))
    assert caught.value.check == check
    assert "\n" not in str(caught.value)


def test_every_check_has_a_saboteur():
    assert {check for check, _, _ in CASES} == set(CHECKS)


def test_check_model_tells_what_did_not_apply():
    assert set(check_model(toys.toy_cnn())) == {"check_token_count", "check_attention_rows"}
    assert check_model(toys.toy_vit(prefix=5)) == {}
