"""The front door, on toys whose answer is known."""

from __future__ import annotations

import inspect

import pytest
import torch
import toys

import seewhy
from seewhy.checks.state import PassCounter
from seewhy.errors import (
    ImageError,
    ModelError,
    NonFiniteError,
    OptionError,
    RequirementError,
    TargetError,
    UnknownNameError,
)
from seewhy.explainer import MAPS_PER_CALL, TARGETS_PER_BACKWARD, ConstantMapWarning, explain_each, top_answers
from seewhy.methods import CDAM, RISE, GradCAM, SmoothGrad
from seewhy.methods.factory import ARGUMENTS, as_method
from seewhy.targets import top


def test_one_photo_gives_the_method_s_own_map(cat):
    model = toys.toy_vit()
    explanation = seewhy.explain(model, cat, "cdam", "dog")
    torch.testing.assert_close(explanation.attribution, CDAM(model)(model.preprocess_images(cat), 3)[0])
    assert explanation.target == {"kind": "class", "label": "dog", "index": 3}
    assert (explanation.layer, explanation.signed, explanation.input_size) == ("blocks.2.norm1", True, (32, 48))


def test_the_default_target_is_the_model_s_answer(cat):
    model = toys.toy_vit()
    answer = model.predict(cat).argmax().item()
    explanation = seewhy.explain(model, cat)
    assert explanation.target["index"] == answer
    assert explanation.target["score"] == pytest.approx(model.predict(cat).softmax(-1)[0, answer].item(), abs=1e-6)


def test_several_images_with_a_target_each(cat, coffee):
    model = toys.toy_cnn()
    both = seewhy.explain(model, [cat, coffee, cat], "grad_cam", ["ant", 4, "dog"], batch_size=2, relu=False)
    for explanation, image, target in zip(both, [cat, coffee, cat], [0, 4, 3], strict=True):
        expected = GradCAM(model, relu=False)(model.preprocess_images(image), target)[0]
        torch.testing.assert_close(explanation.attribution, expected)


@pytest.mark.parametrize(
    ("wrong", "meant"), [("methodx", "method"), ("targetx", "target"), ("batchsize", "batch_size"), ("layr", "layer")]
)
def test_a_misspelt_argument_is_an_error_that_names_the_right_one(wrong: str, meant: str) -> None:
    with pytest.raises(OptionError, match=rf"has no option '{wrong}'; did you mean '{meant}'"):
        seewhy.explain(toys.toy_cnn(), "not read.png", **{"method": "grad_cam", wrong: "x"})


def test_what_a_wrong_option_may_have_meant_are_the_arguments_of_explain() -> None:
    assert tuple(inspect.signature(seewhy.explain).parameters) == ("model", *ARGUMENTS, "options")


def test_the_images_of_a_folder_keep_their_file_names(cat, coffee, tmp_path):
    cat.save(tmp_path / "b.png")
    coffee.save(tmp_path / "a.png")
    explanations = seewhy.explain(toys.toy_cnn(), seewhy.image_paths(tmp_path), "lafam")
    assert [e.source for e in explanations] == [str(tmp_path / "a.png"), str(tmp_path / "b.png")]


def test_several_images_in_one_are_refused_with_the_call_that_works(cat, tmp_path):
    cat.save(tmp_path / "b.png")
    with pytest.raises(ImageError, match=r"is a folder; pass its images: seewhy.image_paths\("):
        seewhy.explain(toys.toy_cnn(), tmp_path, "lafam")
    with pytest.raises(ImageError, match=r"is a folder; pass its images: seewhy.image_paths\("):
        seewhy.explain(toys.toy_cnn(), [tmp_path, tmp_path / "b.png"], "lafam")
    with pytest.raises(ImageError, match=r"is a folder; pass its images: seewhy.image_paths\("):
        seewhy.concept(toys.toy_cnn(), [tmp_path])
    assert seewhy.concept(toys.toy_cnn(), tmp_path).vector.shape == (8,)  # one concept of many images takes a folder
    with pytest.raises(ImageError, match=r"a batch of 2 images; pass list\(batch\)"):
        seewhy.explain(toys.toy_cnn(), torch.zeros(2, 3, 8, 8), "lafam")


def test_compare_lays_targets_in_rows_and_methods_in_columns(cat):
    rows = seewhy.compare(toys.toy_vit(), cat, ["attention_map", "cdam"], [*top(2), "elk"])
    assert [[e.method for e in row] for row in rows] == [["attention_map", "cdam"]] * 3
    logits = toys.toy_vit().predict(cat)[0]
    assert [row[1].target["index"] for row in rows] == [*logits.topk(2).indices.tolist(), 4]
    assert rows[0][0] is rows[2][0]  # label-free: computed once


def test_a_word_means_the_same_in_explain_and_in_compare(cat):
    """`top-2` is the class ranked second, wherever it is written; `top(2)` is a list of two targets."""
    model = toys.toy_cnn()
    second = model.predict(cat)[0].topk(2).indices[1]
    one = seewhy.explain(model, cat, "grad_cam", "top-2")
    ((same,),) = seewhy.compare(model, cat, ["grad_cam"], ["top-2"])
    assert one.target == same.target
    assert one.target["index"] == second
    assert torch.equal(one.attribution, same.attribution)


def test_targets_with_one_entry_for_each_image_go_with_their_images(cat, coffee):
    model = toys.toy_cnn()
    images = [cat, coffee, cat, coffee, coffee]
    wanted = ["elk", "top-2", 0, "bee", "ant"]
    vectors = seewhy.reference(model, images)
    for targets in (wanted, [0, 1, 2, 3, 4], torch.tensor([4, 3, 2, 1, 0]), vectors):
        whole = seewhy.explain(model, images, "grad_cam", targets)
        parts = seewhy.explain(model, images, "grad_cam", targets, batch_size=2)
        for one, other in zip(whole, parts, strict=True):
            assert (one.target, one.source) == (other.target, other.source)
            torch.testing.assert_close(one.attribution, other.attribution)
    alone = [seewhy.explain(model, image, "grad_cam", target) for image, target in zip(images, wanted, strict=True)]
    for one, other in zip(seewhy.explain(model, images, "grad_cam", wanted, batch_size=2), alone, strict=True):
        torch.testing.assert_close(one.attribution, other.attribution)


def test_explain_runs_the_model_no_more_than_it_needs(cat):
    model = toys.toy_cnn()
    rows = rows_run(model)
    seewhy.explain(model, cat, "lafam")
    seewhy.explain(model, cat, "grad_cam", 3)
    assert rows == [1, 1]
    seewhy.explain(model, cat, "grad_cam")
    assert rows == [1, 1, 1]  # the forward of the map tells the answer
    seewhy.explain(model, cat, SmoothGrad(model, n_samples=2))
    assert rows == [1, 1, 1, 1, 2]  # noisy copies do not: the answer, then the copies


@pytest.mark.parametrize("names", [["lafam"], ["attention_map"], ["lafam", "cdam"], ["cdam", "lafam", "grad_cam"]])
@pytest.mark.parametrize("layer", ["blocks.1", None])
def test_the_answer_is_told_by_a_forward_that_a_map_needs(cat, coffee, names, layer):
    model, images = toys.toy_vit(), [cat, coffee]
    methods = [as_method(model, name, **({"layer": layer} if name == "lafam" and layer else {})) for name in names]
    alone = [[seewhy.explain(model, image, method, "top-1") for method in methods] for image in images]
    counter = PassCounter(model)
    outcomes = list(explain_each(model, images, methods))
    forwards = counter.forward["patch_embed"]
    assert forwards == 2 * len(names)
    for outcome, expected, image in zip(outcomes, alone, images, strict=True):
        want = top_answers(model, model.output(image))
        assert [answer.label for answer in outcome.top] == [answer.label for answer in want]
        assert outcome.top[0].logit == pytest.approx(want[0].logit, rel=1e-4)
        for found, other in zip(outcome.explanations[0], expected, strict=True):
            torch.testing.assert_close(found.attribution, other.attribution, rtol=1e-4, atol=1e-6)
            assert found.target["label"] == other.target["label"]


@pytest.mark.parametrize("name", ["cdam", "grad_cam", "saliency", "relevance_propagation", "transformer_attribution"])
def test_the_best_classes_of_an_image_come_from_one_forward_and_a_backward_each(cat, coffee, name):
    model = toys.toy_vit()
    want = [[seewhy.explain(model, image, name, f"top-{k}") for image in (cat, coffee)] for k in (1, 2, 3)]
    counter = PassCounter(model)
    outcomes = list(explain_each(model, [cat, coffee], [name], top(3)))
    assert counter.forward["patch_embed"] == 2
    backwards = {"saliency": 3, "relevance_propagation": 3, "transformer_attribution": 6}.get(name, 0)
    assert counter.backward["blocks.1.mlp.0"] == 2 * backwards
    for k, row in enumerate(want):
        for outcome, expected in zip(outcomes, row, strict=True):
            ((found,), label) = outcome.explanations[k], expected.target["label"]
            torch.testing.assert_close(found.attribution, expected.attribution, rtol=1e-4, atol=1e-6)
            assert found.target["label"] == label


def rows_run(model) -> list[int]:
    """Grows by the number of images of each forward pass."""
    rows = []
    model.module.register_forward_pre_hook(lambda _, args: rows.append(len(args[0])))
    return rows


@pytest.mark.parametrize("targets", [top(2), ["elk", "bee", "ant"], ["dog", "embedding-sum", *top(2)]])
def test_targets_of_a_method_without_gradients_share_its_questions(cat, coffee, targets):
    model = toys.toy_cnn()
    method = RISE(model, n_masks=40, cells=3)
    alone = [list(explain_each(model, [cat, coffee], [method], [target])) for target in targets]
    rows = rows_run(model)
    outcomes = list(explain_each(model, [cat, coffee], [method], targets))
    assert sum(rows) == 2 * (1 + method.n_masks)  # the model's answer, and each mask, once for each image
    for i, outcome in enumerate(outcomes):
        for (found,), expected in zip(outcome.explanations, alone, strict=True):
            ((one,),) = expected[i].explanations
            torch.testing.assert_close(found.attribution, one.attribution)
            assert (found.target, found.source, found.options) == (one.target, one.source, one.options)


def test_the_batch_of_shared_targets_is_bounded(cat):
    model = toys.toy_cnn()
    rows = []
    method = RISE(model, n_masks=2, cells=3)
    method.compute = lambda x, target: rows.append(len(x)) or x[:, 0]
    (outcome,) = explain_each(model, [cat], [method], [0] * (MAPS_PER_CALL + 1))
    assert rows == [MAPS_PER_CALL, 1]
    assert len(outcome.explanations) == MAPS_PER_CALL + 1


def test_so_is_that_of_backwards(cat):
    model = toys.toy_cnn()
    rows = rows_run(model)
    (outcome,) = explain_each(model, [cat], ["grad_cam"], [0] * (2 * TARGETS_PER_BACKWARD + 1))
    assert rows == [1, 1, 1]
    assert len(outcome.explanations) == 2 * TARGETS_PER_BACKWARD + 1


def test_a_bad_photo_costs_only_itself(cat, tmp_path):
    cat.save(tmp_path / "good.png")
    (tmp_path / "empty.png").touch()
    paths = [tmp_path / "good.png", tmp_path / "empty.png", tmp_path / "missing.png", tmp_path / "good.png"]
    outcomes = list(explain_each(toys.toy_cnn(), paths, ["grad_cam"], batch_size=3))
    assert [type(o.error) for o in outcomes] == [type(None), ImageError, ImageError, type(None)]
    torch.testing.assert_close(outcomes[0].explanations[0][0].attribution, outcomes[3].explanations[0][0].attribution)


def test_a_photo_that_breaks_the_model_costs_only_itself(cat):
    model = toys.toy_cnn()
    inner = model.preprocess
    model.preprocess = lambda image: inner(image) * (float("nan") if image.size == (10, 10) else 1)
    outcomes = list(explain_each(model, [cat, cat.resize((10, 10)), cat], ["grad_cam"]))
    assert [type(o.error) for o in outcomes] == [type(None), NonFiniteError, type(None)]


def test_truth_is_the_folder_s_name(cat, tmp_path):
    for name in ("bee", "elk", "unicorn"):
        (tmp_path / name).mkdir()
        cat.save(tmp_path / name / "1.png")
    paths = sorted(tmp_path.glob("*/*.png"))
    (elk,) = seewhy.explain(toys.toy_cnn(), paths[1:2], "grad_cam", ["truth"])
    assert seewhy.explain(toys.toy_cnn(), paths[1], "grad_cam", "truth").target == elk.target
    assert elk.target["label"] == "elk"
    with pytest.raises(TargetError, match=r"pass files to seewhy\.explain"):
        seewhy.methods.GradCAM(toys.toy_cnn())(toys.batch(1), "truth")
    outcomes = list(explain_each(toys.toy_cnn(), paths, ["grad_cam"], ["truth"]))
    assert [o.explanations[0][0].target["label"] if o.explanations else type(o.error) for o in outcomes] == [
        "bee",
        "elk",
        UnknownNameError,
    ]


def test_impossible_requests_fail_before_the_first_photo():
    model = toys.toy_cnn()
    for error, methods, targets in [
        (UnknownNameError, ["grad_kam"], [None]),
        (RequirementError, ["cdam"], [None]),
        (UnknownNameError, ["grad_cam"], ["unicorn"]),
        (TargetError, ["grad_cam"], [17]),
        (TargetError, ["grad_cam"], ["top-9"]),
    ]:
        with pytest.raises(error):
            next(explain_each(model, ["never read.png"], methods, targets))


def test_options_are_checked(cat):
    with pytest.raises(OptionError, match="its options: layer, relu"):
        seewhy.explain(toys.toy_cnn(), cat, "grad_cam", n_samples=3)
    with pytest.raises(TargetError, match="3 targets for 2 images"):
        seewhy.explain(toys.toy_cnn(), [cat, cat], "grad_cam", [1, 2, 3])


def test_a_constant_map_is_flagged(cat):
    model = toys.toy_cnn()
    torch.nn.init.zeros_(model.module.head.weight)
    with pytest.warns(ConstantMapWarning, match="it says nothing"):
        explanation = seewhy.explain(model, cat, "grad_cam", 0)
    assert explanation.is_constant


def test_the_photo_that_the_picture_shows_is_what_the_model_saw(cat):
    model = toys.toy_cnn()
    model.preprocess = seewhy.Preprocess(size=(32, 32), resize=32)
    assert seewhy.explain(model, cat, "lafam").image.size in {(300, 300), (301, 300)}  # of 451 × 300


def test_a_plain_module_is_told_to_be_wrapped(cat) -> None:
    module = torch.nn.Conv2d(3, 4, 3)
    for call in (
        lambda: seewhy.explain(module, cat),
        lambda: seewhy.explain(module, cat, "grad_cam"),
        lambda: seewhy.methods.GradCAM(module),
        lambda: seewhy.explain("scenes_cnn", cat),
    ):
        with pytest.raises(ModelError, match=r"seewhy\.(wrap|load_model)"):
            call()
