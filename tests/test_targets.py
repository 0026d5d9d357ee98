"""Every kind of target: its number, its tiling for many passes, its name, and what it refuses."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from toys import batch, toy_cnn, toy_vit

from seewhy.core.cards import Capability
from seewhy.errors import ImageError, TargetError, UnknownNameError
from seewhy.methods import GradCAM, IntegratedGradients, Saliency
from seewhy.models.adapter import VisionModel
from seewhy.models.structure import Layer, Structure
from seewhy.targets import (
    ClassTarget,
    Custom,
    Output,
    PerImage,
    Probability,
    Rank,
    Regression,
    Similarity,
    as_probability,
    as_target,
    class_index,
    concept,
    embedding_norm,
    embedding_sum,
    reference,
    tiled_rows,
)

NAMES = ["ant", "bee", "tiger cat", "Egyptian cat", "mule, hinny"]
LOGITS = torch.tensor([[1.0, 5, 2, 4, 3], [9.0, 7, 8, 6, 0]])
EMBEDDING = torch.tensor([[3.0, 4], [0, -2]])
OUT = Output(LOGITS, EMBEDDING)


def scores(spec, out=OUT):
    return as_target(spec, NAMES).score(out).tolist()


@pytest.mark.parametrize(
    ("spec", "want"),
    [
        (3, [4, 6]),
        (np.int64(3), [4, 6]),
        (torch.tensor(3), [4, 6]),
        ("3", [4, 6]),
        (" 3 ", [4, 6]),
        ("ant", [1, 9]),
        ("ANT", [1, 9]),
        ("egyptian_cat", [4, 6]),
        ("Egyptian-Cat", [4, 6]),
        ("hinny", [3, 0]),
        ("mule, hinny", [3, 0]),
        ([3, 0], [4, 9]),
        ((3, 0), [4, 9]),
        (np.array([3, 0]), [4, 9]),
        (torch.tensor([3, 0]), [4, 9]),
        (["tiger cat", 4], [2, 0]),
        (None, [5, 9]),
        ("top-1", [5, 9]),
        ("top1", [5, 9]),
        ("top", [5, 9]),
        ("top-2", [4, 8]),
        ("TOP-5", [1, 0]),
        (["top-2", "ant"], [4, 9]),
        ("embedding-sum", [7, -2]),
        ("embedding-norm", [5, 2]),
        (lambda logits: logits.sum(1), [15, 30]),
        (Rank(3), [3, 7]),
        (Regression(1), [5, 7]),
        ([embedding_sum(), 1], [7, 7]),
        ([lambda logits: logits[:, 0] ** 2, "top-1"], [1, 9]),
        (Custom(lambda e: e[:, 1], on="embedding"), [4, -2]),
        ([3], [4, 6]),
    ],
)
def test_what_people_write_becomes_this_number(spec, want):
    assert scores(spec) == want


def test_a_model_without_classes_is_explained_by_its_embedding():
    out = Output(None, EMBEDDING)
    assert as_target(None, None, has_logits=False).score(out).tolist() == [7, -2]
    assert as_target(lambda e: e[:, 0], None, has_logits=False).score(out).tolist() == [3, 0]
    with pytest.raises(TargetError, match="embedding-sum"):
        as_target(3).score(out)
    with pytest.raises(TargetError, match="class target"):
        embedding_sum().score(Output(LOGITS, None))


@pytest.mark.parametrize(
    ("measure", "want"),
    [
        ("dot", [3 * 1 + 4 * -2, 4]),
        ("cosine", [-5 / (5 * math.sqrt(5)), 4 / (2 * math.sqrt(5))]),
        ("l2", [-math.hypot(2, 6), -1]),
    ],
)
def test_similarities(measure, want):
    vector = torch.tensor([1.0, -2])
    assert Similarity(vector, measure).score(OUT).tolist() == pytest.approx(want)
    each = Similarity(torch.stack([vector, 2 * vector]), measure).score(OUT).tolist()
    assert each[0] == pytest.approx(want[0])
    again = Similarity(2 * vector, measure).score(OUT).tolist()
    assert each[1] == pytest.approx(again[1])


KINDS = [
    2,
    [3, 0],
    ["top-1", 2],
    [embedding_sum(), "top-2"],
    Similarity(torch.tensor([1.0, 2])),
    Similarity(torch.tensor([[1.0, 2], [3, 4]])),
    [Similarity(torch.tensor([1.0, 2])), 4],
    Rank(2),
    Regression(2),
    lambda logits: logits[:, 1],
]


@pytest.mark.parametrize("spec", KINDS, ids=range(len(KINDS)))
def test_a_tiled_batch_has_the_same_numbers_repeated(spec):
    target = as_target(spec, NAMES)
    rows = tiled_rows(2, 3)
    assert rows == [0, 1, 0, 1, 0, 1]
    tiled = Output(LOGITS.repeat(3, 1), EMBEDDING.repeat(3, 1))
    assert target.at(rows).score(tiled).tolist() == target.score(OUT).tolist() * 3
    assert target.at([1]).score(OUT.row(1)).tolist() == target.score(OUT).tolist()[1:]


@pytest.mark.parametrize("spec", ["top-1", "top-3", ["top-2", 4], [embedding_sum(), "top-1"]])
def test_fixed_holds_on_to_the_first_answer(spec):
    target = as_target(spec, NAMES)
    assert target.depends_on_output
    fixed = target.fixed(OUT)
    assert not fixed.depends_on_output
    assert fixed.score(OUT).tolist() == target.score(OUT).tolist()
    other = Output(LOGITS.roll(1, 1), EMBEDDING)
    assert fixed.score(other).tolist() != target.score(other).tolist()
    assert not as_target([3, 0]).depends_on_output
    assert as_target([3, 0]).fixed(OUT).score(OUT).tolist() == [4, 9]


def test_a_method_of_many_passes_explains_the_class_of_the_image_not_of_each_point():
    """From the blank image to the image the model's answer changes; the path is for the image's answer."""
    model, x = toy_cnn(), batch(3, seed=4)
    with torch.no_grad():
        blank, top = model.module.eval()(torch.zeros_like(x)).argmax(1), model.module(x * 30).argmax(1)
    assert (blank != top).any(), "choose images whose answer differs from the blank one"
    method = IntegratedGradients(model, n_steps=5, baseline="zero")
    assert torch.equal(method(x * 30), method(x * 30, top))
    assert torch.equal(method(x * 30, "top-1"), method(x * 30, top))


def test_a_mix_of_targets_is_each_one_alone():
    model, x = toy_cnn(), batch(4)
    mix = [2, "top-2", embedding_sum(), Similarity(torch.linspace(-1, 1, 8))]
    for cls in (GradCAM, Saliency, IntegratedGradients):
        method = cls(model)
        together = method(x, mix)
        for i, target in enumerate(mix):
            torch.testing.assert_close(together[i], method(x[i : i + 1], target)[0], rtol=1e-4, atol=1e-6)


def test_concepts_and_references():
    model, (a, b) = toy_vit(), (torch.rand(3, 32, 48), torch.rand(3, 32, 48))
    ea, eb = model.embed(a)[0], model.embed(b)[0]
    torch.testing.assert_close(concept(model, [a, b], batch_size=1).vector, (ea + eb) / 2)
    assert concept(model, ea, measure="l2", name="a").vector is ea
    assert torch.equal(reference(model, a).vector, ea)
    assert reference(model, a).measure == "cosine"
    assert reference(model, a).kind == "reference"
    torch.testing.assert_close(reference(model, [a, b]).vector, torch.stack([ea, eb]))
    out = model.output([a, b])
    torch.testing.assert_close(reference(model, [a, b]).score(out), torch.ones(2))
    torch.testing.assert_close(reference(model, a, measure="l2").score(out)[1], -(ea - eb).norm())


def test_a_concept_made_in_inference_mode_can_be_explained():
    model = toy_vit()
    with torch.inference_mode():
        made = concept(model, torch.rand(3, 32, 48))
    want = GradCAM(model)(batch(), Similarity(made.vector.clone()))
    assert torch.equal(GradCAM(model)(batch(), made), want)


def test_concept_folders(tmp_path, cat):
    model = toy_vit()
    with pytest.raises(TargetError, match=r"holds no images; put some"):
        concept(model, tmp_path)
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(TargetError, match="holds no images"):
        concept(model, str(tmp_path))
    with pytest.raises(TargetError, match="at least one image"):
        concept(model, [])
    with pytest.raises(ImageError):
        concept(model, tmp_path / "missing.jpg")
    cat.save(tmp_path / "cat.png")
    torch.testing.assert_close(concept(model, str(tmp_path)).vector, model.embed(cat)[0])


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (5, "class 5 is out of range; this model has 5: 0 to 4"),
        (-1, "-1 is out of range"),
        ("7", "7 is out of range"),
        ("-1", "out of range"),
        ([0, 9], "class 9 is out of range"),
        ([0, 1, 2], "3 targets for 2 images"),
        ([embedding_sum()] * 3, "3 targets for 2 images"),
        ("top-0", "rank 0 is out of range"),
        ("top-6", "rank 6 is out of range; this model has 5 classes"),
        (Regression(7), "output 7 is out of range"),
        (["top-9", 1], "rank 9"),
        (True, "True is not a target"),
        (np.bool_(True), "(True|False) is not a target"),
        ([True, False], "(True|False) is not a target"),
        (2.5, "float is not a target"),
        (np.float32(2), "float is not a target"),
        ([], "list is not a target"),
        ({"class": 1}, "dict is not a target"),
        (Similarity(torch.ones(3, 2)), "3 reference vectors for 2 images"),
    ],
)
def test_targets_that_do_not_exist(spec, message):
    with pytest.raises(TargetError, match=message):
        as_target(spec, NAMES).check(2, 5)


def test_without_class_names_or_a_known_number_of_classes():
    with pytest.raises(TargetError, match=r"without class names.*class number"):
        as_target("cat")
    ClassTarget((7,)).check(2, None)
    with pytest.raises(TargetError, match="-1 is negative; count from 0"):
        ClassTarget((-1,)).check(2, None)
    for wrong in (ClassTarget((5,)), ClassTarget((0, 5)), Rank(6), PerImage((Rank(6), Rank(1)))):
        wrong.check(2, None)
        with pytest.raises(TargetError, match=r"out of range; this model has 5"):  # as soon as the logits are there
            wrong.score(OUT)
        if wrong.depends_on_output:
            with pytest.raises(TargetError, match="out of range"):
                wrong.fixed(OUT)


@pytest.mark.parametrize(
    ("typo", "near"),
    [
        ("tigr cat", "tiger cat"),
        ("Aant", "ant"),
        ("mule hiny", "mule, hinny"),
        ("egypt", "Egyptian cat"),
        ("top-two", ""),
    ],
)
def test_a_typo_suggests_the_nearest(typo, near):
    with pytest.raises(UnknownNameError, match=f"unknown class '{typo}'.*{near}"):
        as_target(typo, NAMES)


@pytest.mark.parametrize("odd", ["--3", "3-", "²", "top--2", "top-²", "3.0", ""])
def test_odd_words_are_no_numbers(odd):
    with pytest.raises(UnknownNameError):
        as_target(odd, NAMES)


def test_what_is_written_exactly_comes_first_and_whole_names_before_synonyms():
    assert class_index("cat", ["tiger, cat", "cat"]) == 1
    assert class_index("cat", ["Cat", "tiger, cat"]) == 1
    assert class_index("bee", ["bee eater", "bee"]) == 1
    assert [class_index(name, ["Cardigan", "cardigan"]) for name in ("Cardigan", "cardigan")] == [0, 1]


@pytest.mark.parametrize(
    ("name", "names"), [("CAT", ["Cat", "dog", "cat"]), ("cat", ["tiger, cat", "dog", "cat, tom"])]
)
def test_a_name_of_several_classes_is_asked_about(name, names):
    with pytest.raises(TargetError, match=rf"'{name}' .*: 0 \({names[0]}\), 2 \({names[2]}\); give the class number"):
        class_index(name, names)


@pytest.mark.parametrize(
    "function",
    [
        lambda o: o,
        lambda o: o.sum(),
        lambda o: 3.0,
        lambda o: o[:1, 0],
        lambda o: o[:, :1],
    ],
)
def test_functions_of_the_wrong_shape(function):
    with pytest.raises(TargetError, match=r"one number per image: \(2,\), not"):
        as_target(function).score(OUT)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_vectors_that_cannot_be(value):
    with pytest.raises(TargetError, match="NaN or infinity"):
        Similarity(torch.tensor([1.0, value]))
    with pytest.raises(TargetError, match="shape"):
        Similarity(torch.ones(1, 2, 3))
    with pytest.raises(UnknownNameError, match="'cosine'"):
        Similarity(torch.ones(2), measure="cosin")
    with pytest.raises(TargetError, match="has 3 numbers, this model's embedding 2"):
        Similarity(torch.ones(3)).score(OUT)


def test_what_the_model_does_not_offer_is_refused_before_any_forward(monkeypatch):
    layer = Layer("stage2", "nchw")
    embeds = VisionModel(torch.nn.Sequential(), Structure("toy", stages=(layer,), cam_layer=layer))
    monkeypatch.setattr(embeds.module, "forward", lambda x: pytest.fail("ran"))
    embeds.module.stage2 = torch.nn.Identity()
    for spec in (3, "top-1", [embedding_sum(), 3], [3, embedding_sum()]):
        with pytest.raises(TargetError, match="gives no logits"):
            GradCAM(embeds)(batch(), spec)


def test_labels_and_descriptions():
    def label(spec, row=1):
        return as_target(spec, NAMES).label(row, NAMES)

    assert [label(s) for s in (0, [0, 3], "top-2", "embedding-sum", Regression(3), ["bee", "top-1"])] == [
        "ant",
        "Egyptian cat",
        "top-2",
        "embedding sum",
        "Egyptian cat",
        "top-1",
    ]
    assert ClassTarget((7,)).label(0) == "class 7"
    assert Regression(3).label(0) == "output 3"
    assert Similarity(torch.ones(2), name="stripes").label(0) == "stripes"
    assert as_target([0, 3], NAMES).describe(1, NAMES) == {"kind": "class", "label": "Egyptian cat", "index": 3}
    assert as_target(["top-1", 3], NAMES).describe(1, NAMES) == {"kind": "class", "label": "Egyptian cat", "index": 3}
    assert Similarity(torch.ones(2), "l2").describe(0)["measure"] == "l2"


def test_needs():
    assert as_target(3).need == as_target("top-1").need == as_target(lambda o: o[:, 0]).need == Capability.LOGITS
    assert embedding_sum().need == embedding_norm().need == Similarity(torch.ones(2)).need == Capability.EMBEDDING


def test_gradients_reach_the_right_output():
    """The score is the logit itself: its gradient is one there and zero elsewhere."""
    logits = LOGITS.clone().requires_grad_()
    for spec, index in (([3, 0], [3, 0]), ("top-1", [1, 0]), (Rank(2).fixed(OUT), [3, 2])):
        (grad,) = torch.autograd.grad(as_target(spec, NAMES).score(Output(logits, EMBEDDING)).sum(), logits)
        assert torch.equal(grad, torch.nn.functional.one_hot(torch.tensor(index), 5).float())


# ── probabilities ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_probability_of_a_class_is_the_softmax_of_its_logit():
    model = toy_cnn()
    want = LOGITS.softmax(1)
    for spec, columns in ((3, [3, 3]), ([3, 0], [3, 0]), ("top-2", [3, 2]), ([2, "top-1"], [2, 0])):
        target = as_probability(as_target(spec), model)
        torch.testing.assert_close(target.score(OUT), want[[0, 1], columns])
        torch.testing.assert_close(target.at([1, 0, 1]).score(Output(LOGITS[[1, 0, 1]])), target.score(OUT)[[1, 0, 1]])
        fixed = target.fixed(OUT)
        assert not fixed.depends_on_output
        torch.testing.assert_close(fixed.score(Output(LOGITS.flip(1))), want.flip(1)[[0, 1], columns])
    assert as_probability(Rank(2), model).depends_on_output
    model.structure = replace(model.structure, multi_label=True)
    torch.testing.assert_close(as_probability(ClassTarget((3,)), model).score(OUT), LOGITS[:, 3].sigmoid())


def test_only_classes_have_a_probability():
    model = toy_cnn()
    for target in (Regression(1), Custom(lambda logits: logits.sum(1)), Similarity(EMBEDDING[0])):
        assert as_probability(target, model) is target
    mixed = as_probability(PerImage((Regression(1), ClassTarget((1,)))), model)
    assert [isinstance(target, Probability) for target in mixed.targets] == [False, True]


def test_a_probability_is_computed_in_float32_at_least():
    half = as_probability(ClassTarget((0,)), toy_cnn()).score(Output(LOGITS.half()))
    assert half.dtype == torch.float32


def test_the_sum_of_a_normalized_embedding_is_nothing_and_no_rounding():
    embedding = torch.nn.functional.layer_norm(torch.randn(3, 128), (128,)).requires_grad_()
    score = embedding_sum().score(Output(None, embedding))
    assert torch.equal(score, torch.zeros(3))
    (gradient,) = torch.autograd.grad(score.sum(), embedding)
    assert not gradient.any()
    assert torch.equal(embedding_sum().score(Output(None, embedding + 1)), (embedding + 1).sum(-1))
