"""What a plan may say, and what each mistake is answered."""

from __future__ import annotations

import pickle

import pytest

from seewhy.bench.plan import Plan
from seewhy.bench.setup import Bench
from seewhy.errors import DataError, OptionError, RequirementError, SeewhyError, UnknownNameError

GOOD = {
    "models": '["scenes_cnn"]',
    "methods": '["lafam"]',
    "metrics": '["pointing_game"]',
    "data": '{name="scenes", split="multi", n=4}',
}


def text(**changes: str) -> str:
    return "\n".join(f"{key} = {value}" for key, value in {**GOOD, **changes}.items() if value)


def test_a_plan_is_read_and_survives_pickling():
    plan = Plan.parse(
        text(
            protocol='{size=[48, 64], upsampling="nearest"}',
            seed="3",
            models='["scenes_cnn", {name="mine", source="scenes_vit"}]',
        )
    )
    assert [(m.name, m.label) for m in plan.models] == [("scenes_cnn", "scenes_cnn"), ("scenes_vit", "mine")]
    assert (plan.seed, plan.protocol.size, plan.protocol.upsampling) == (3, (48, 64), "nearest")
    assert plan.baselines == ("random",)
    assert pickle.loads(pickle.dumps(plan)) == plan


def test_two_entries_of_a_method_are_told_apart():
    plan = Plan.parse(
        text(
            methods='["smooth_cdam", {name="smooth_cdam", n_samples=3}, '
            '{name="smooth_cdam", n_samples=4, label="four"}]'
        )
    )
    assert [m.label for m in plan.methods] == ["smooth_cdam", "smooth_cdam (n_samples=3)", "four"]
    with pytest.raises(OptionError, match="twice"):
        Plan.parse(text(methods='["lafam", "lafam"]'))


def test_all_methods_but_some_with_options_of_their_own():
    plan = Plan.parse(text(models='["scenes_vit"]', methods='["all", {name="rise", n_masks=7, label="RISE-7"}]'))
    tools = Bench(plan).stage("scenes_vit").tools
    assert tools["RISE-7"].by.n_masks == 7
    assert "rise" not in tools
    every = Bench(Plan.parse(text(models='["scenes_vit"]', methods='"all"'))).stage("scenes_vit").tools
    assert tools.keys() - {"RISE-7"} == every.keys() - {"rise"}
    assert every.keys() > {"rise", "cdam", "random"}
    with pytest.raises(OptionError, match="another method"):
        Plan.parse(text(methods='["all", {name="rise", label="lafam"}]'))


def test_the_digest_is_of_what_is_said_not_of_how():
    plan = Plan.parse(text())
    assert Plan.parse("# words\n\n" + text()).digest == plan.digest
    assert Plan.parse(text(seed="1")).digest != plan.digest
    assert Plan.parse(text(data='{name="scenes", split="multi", n=5}')).digest != plan.digest
    assert Plan.parse(text(published='{source="a paper"}')).digest == plan.digest
    assert plan.digest == "toml:1be3a6547b04ec89"  # in every version: a run may go on with a newer seewhy


def test_threshold_and_seed_reach_the_metrics_that_have_them():
    plan = Plan.parse(
        text(
            metrics='["miou", {name="miou", rule="mean", label="own"}, "box_sensitivity"]',
            protocol='{threshold="otsu"}',
            seed="7",
        )
    )
    metrics = plan.made_metrics()
    assert (metrics["miou"].rule, metrics["miou"].level) == ("otsu", None)
    assert metrics["own"].rule == "mean"
    assert metrics["box_sensitivity"].seed == 7
    (metric,) = Plan.parse(text(metrics='["miou"]', protocol="{threshold=0.3}")).made_metrics().values()
    assert (metric.rule, metric.level) == ("max", 0.3)


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"models": ""}, OptionError, "no models"),
        ({"metrics": "[]"}, OptionError, "no metrics"),
        ({"modles": '["x"]'}, OptionError, "models"),
        ({"methods": '["grad_kam"]'}, UnknownNameError, "grad_cam"),
        ({"metrics": '["pointing"]'}, UnknownNameError, "pointing_game"),
        ({"data": '{name="scene"}'}, UnknownNameError, "scenes"),
        ({"methods": '[{name="smooth_cdam", n_sample=3}]'}, OptionError, "n_samples"),
        ({"metrics": '[{name="fidelity", step=3}]'}, OptionError, "steps"),
        ({"metrics": '[{name="fidelity", steps=0}]'}, OptionError, "steps"),
        ({"protocol": '{upsampling="cubic"}'}, OptionError, "bilinear"),
        ({"protocol": '{upsamplings="nearest"}'}, OptionError, "upsampling"),
        ({"protocol": '{target="labels"}'}, OptionError, "label"),
        ({"protocol": "{batch_size=0}"}, OptionError, "1 or more"),
        ({"protocol": "{size=[0, 3]}"}, OptionError, "rows, cols"),
        ({"metrics": '["miou"]', "protocol": '{threshold="otsa"}'}, OptionError, "otsu"),
        ({"metrics": '["miou"]', "protocol": "{threshold=1.5}"}, OptionError, "share"),
        ({"protocol": '{threshold="otsa"}'}, OptionError, "otsu"),  # also where no metric has a threshold
        ({"protocol": "{threshold=5}"}, OptionError, "threshold = 5.*share"),
        ({"published": "3"}, OptionError, "table"),
        ({"seed": "true"}, OptionError, "whole number"),
        ({"seed": "-1"}, OptionError, "0 or more"),
        ({"data": "{name=3}"}, OptionError, "a word"),
        ({"baselines": '["rnd"]'}, UnknownNameError, "random"),
        ({"data": '{name="scenes", n=0}'}, OptionError, "1 or more"),
        ({"methods": '[{name="lafam", label="random"}]'}, OptionError, "baseline"),
        ({"models": "[3]"}, OptionError, "table"),
        ({"seed": "= 3"}, OptionError, "TOML"),
    ],
)
def test_a_mistake_is_named_before_anything_is_loaded(changes, error, words):
    with pytest.raises(error, match=words):
        Plan.parse(text(**changes)).made_metrics()


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"data": '{name="scenes", split="many"}'}, SeewhyError, "multi"),
        ({"data": '{name="scenes", splitt="multi"}'}, OptionError, "did you mean 'split'"),
        ({"data": '{name="voc", root="/nowhere"}'}, DataError, "nowhere"),
        ({"models": '["scenes_cn"]'}, UnknownNameError, "scenes_cnn"),
        ({"methods": '["cdam"]'}, RequirementError, "serves none"),
        ({"methods": '["concept_cdam"]', "models": '["scenes_vit"]'}, RequirementError, "concept"),
        ({"methods": '[{name="grad_cam", layer="layer9"}]'}, SeewhyError, "layer"),
        (
            {"metrics": '["fidelity_discrimination"]', "data": '{name="scenes", split="single", n=4}'},
            OptionError,
            "two classes",
        ),
        ({"models": '["efficientnet_lite0"]'}, OptionError, "prediction"),
    ],
)
def test_what_cannot_work_together_is_named_before_the_first_forward(changes, error, words, monkeypatch):
    monkeypatch.setattr("seewhy.models.adapter.VisionModel.run", None)
    with pytest.raises(error, match=words):
        Bench(Plan.parse(text(**changes))).check()


def test_data_without_masks_refuse_metrics_that_need_them(monkeypatch):
    from dataclasses import replace

    from seewhy.core.cards import Requirement
    from seewhy.data import Scenes

    monkeypatch.setattr(Scenes, "card", replace(Scenes.card, has=frozenset({Requirement.LABEL})))
    with pytest.raises(OptionError, match="needs masks"):
        Bench(Plan.parse(text()))
    with pytest.raises(OptionError, match="needs boxes"):
        Bench(Plan.parse(text(metrics='["box_iou"]')))


def test_a_method_that_serves_only_one_of_two_models_is_skipped_for_the_other():
    stages = Bench(Plan.parse(text(models='["scenes_cnn", "scenes_vit"]', methods='["lafam", "cdam"]'))).check()
    assert [list(stage.skipped) for stage in stages] == [["cdam"], []]
    assert [list(stage.tools) for stage in stages] == [["random", "lafam"], ["random", "lafam", "cdam"]]
