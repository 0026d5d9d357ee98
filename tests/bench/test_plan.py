"""What a plan may say, and what each mistake is answered."""

from __future__ import annotations

import json
import pickle
import tomllib
import weakref
from dataclasses import replace
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from seewhy.bench import setup
from seewhy.bench.execute.run import resume, run
from seewhy.bench.plan import Plan
from seewhy.bench.presets import list_presets
from seewhy.bench.setup import Benchmark
from seewhy.cli.bench import app
from seewhy.errors import DataError, OptionError, RequirementError, SeewhyError, UnknownNameError
from seewhy.methods import METHODS
from seewhy.metrics import METRICS
from seewhy.models.adapter import VisionModel

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
    assert plan.reference_maps == ("random",)
    assert pickle.loads(pickle.dumps(plan)) == plan


@pytest.mark.parametrize(
    ("written", "target", "by_label", "rank", "class_name"),
    [
        (None, "truth", True, None, None),
        ('"truth"', "truth", True, None, None),
        ('"label"', "truth", True, None, None),
        ('"First"', "first", True, None, None),
        ('"prediction"', "top-1", False, 1, None),
        ('"top"', "top-1", False, 1, None),
        ('"TOP2"', "top-2", False, 2, None),
        ('"Star "', "Star", False, None, "Star"),
        ("3", "3", False, None, "3"),
    ],
)
def test_targets_have_the_words_of_python_and_their_former_ones(written, target, by_label, rank, class_name):
    protocol = Plan.parse(text(**({} if written is None else {"protocol": f"{{target={written}}}"}))).protocol
    assert (protocol.target, protocol.by_label, protocol.rank, protocol.class_name) == (
        target,
        by_label,
        rank,
        class_name,
    )


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
    tools = Benchmark(plan).setup("scenes_vit").map_makers
    assert tools["RISE-7"].source.n_masks == 7
    assert "rise" not in tools
    every = Benchmark(Plan.parse(text(models='["scenes_vit"]', methods='"all"'))).setup("scenes_vit").map_makers
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
    metrics = plan.build_metrics()
    assert (metrics["miou"].rule, metrics["miou"].level) == ("otsu", None)
    assert metrics["own"].rule == "mean"
    assert metrics["box_sensitivity"].seed == 7
    (metric,) = Plan.parse(text(metrics='["miou"]', protocol="{threshold=0.3}")).build_metrics().values()
    assert (metric.rule, metric.level) == ("max", 0.3)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"models": ""}, OptionError, "^plan: models is missing; add for example models = "),
        ({"metrics": "[]"}, OptionError, "metrics is empty; add for example"),
        ({"modles": '["x"]'}, OptionError, "unknown key 'modles'; did you mean 'models'"),
        ({"methods": '["grad_kam"]'}, UnknownNameError, "grad_cam"),
        ({"metrics": '["pointing"]'}, UnknownNameError, "pointing_game"),
        ({"data": '{name="scene"}'}, UnknownNameError, "scenes"),
        (
            {"methods": '[{name="smooth_cdam", n_sample=3}]'},
            OptionError,
            "no option 'n_sample'; did you mean",
        ),
        ({"metrics": '[{name="fidelity", step=3}]'}, OptionError, "did you mean 'n_steps'"),
        ({"metrics": '[{name="fidelity", n_steps=0}]'}, OptionError, "metric fidelity: n_steps"),
        ({"protocol": '{upsampling="bilinar"}'}, OptionError, "upsampling must be one of .*did you mean 'bilinear'"),
        ({"protocol": '{upsamplings="nearest"}'}, OptionError, "'protocol.upsamplings'; did you mean 'upsampling'"),
        (
            {"protocol": '{target="embedding-sum"}'},
            OptionError,
            "must be a class, .*got 'embedding-sum'",
        ),
        ({"protocol": '{target="top-0"}'}, OptionError, "protocol.target must count from 1"),
        ({"protocol": '{target=" "}'}, OptionError, "protocol.target must be truth, first, top-1"),
        ({"protocol": "{target=true}"}, OptionError, "protocol.target must be truth, first, top-1"),
        ({"protocol": "{batch_size=0}"}, OptionError, "protocol.batch_size must be at least 1, got 0"),
        ({"protocol": "{batch_size=1.5}"}, OptionError, "protocol.batch_size must be an integer, got 1.5"),
        ({"protocol": "{size=[0, 3]}"}, OptionError, r"protocol.size must be .*\[rows, cols\].*got \[0, 3\]"),
        ({"protocol": "{keep_maps=1}"}, OptionError, "true or false, got 1"),
        ({"protocol": "3"}, OptionError, "protocol must be a table, got 3"),
        ({"metrics": '["miou"]', "protocol": "{threshold=1.5}"}, OptionError, "share"),
        ({"protocol": '{threshold="otsa"}'}, OptionError, "otsu"),  # also where no metric has a threshold
        ({"protocol": "{threshold=5}"}, OptionError, "threshold = 5.*share"),
        ({"protocol": "{threshold=true}"}, OptionError, "threshold must be a rule"),
        ({"protocol": '{normalize="min"}'}, OptionError, "none, minmax, max, got 'min'"),
        ({"protocol": "{preprocess={mean=[0, 0, 0]}}"}, OptionError, "has no option 'mean'; use size, resize, crop"),
        ({"protocol": '{preprocess={crop="left"}}'}, OptionError, "preprocess cannot be used .unknown crop 'left'"),
        ({"published": "3"}, OptionError, "published must be a table"),
        ({"seed": "true"}, OptionError, "seed must be an integer, got true"),
        ({"seed": "-1"}, OptionError, "seed must be at least 0, got -1"),
        ({"data": "{name=3}"}, OptionError, "data.name must be a string, got 3"),
        ({"data": '{split="multi"}'}, OptionError, "data.name is missing"),
        ({"reference_maps": '["rnd"]'}, UnknownNameError, "random"),
        ({"reference_maps": '["random"]', "baselines": '["center"]'}, OptionError, "former name of reference_maps"),
        ({"data": '{name="scenes", n=0}'}, OptionError, "data.n must be at least 1, got 0"),
        ({"methods": '[{name="lafam", label="random"}]'}, OptionError, "another reference map; give lafam"),
        ({"models": "[3]"}, OptionError, r"models\[0\] must be a string or a table, got 3"),
        ({"models": '[{label="x"}]'}, OptionError, r"models\[0\].name is missing"),
        ({"seed": "= 3"}, OptionError, "plan is not valid TOML: .*line 5"),
    ],
)
def test_a_mistake_is_named_before_anything_is_loaded(changes, error, message):
    with pytest.raises(error, match=message):
        Plan.parse(text(**changes)).build_metrics()


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"data": '{name="scenes", split="many"}'}, SeewhyError, "multi"),
        ({"data": '{name="scenes", splitt="multi"}'}, OptionError, "did you mean 'split'"),
        ({"data": '{name="voc", root="/nowhere"}'}, DataError, "nowhere"),
        ({"models": '["scenes_cn"]'}, UnknownNameError, "scenes_cnn"),
        ({"methods": '["cdam"]'}, RequirementError, "no method of the plan serves"),
        ({"methods": '["concept_cdam"]', "models": '["scenes_vit"]'}, RequirementError, "concept"),
        ({"methods": '[{name="grad_cam", layer="layer9"}]'}, SeewhyError, "layer"),
        (
            {"metrics": '["fidelity_discrimination"]', "data": '{name="scenes", split="single", n=4}'},
            OptionError,
            "two classes",
        ),
        ({"models": '["efficientnet_lite0"]'}, OptionError, 'use target = "top-1"'),
        ({"protocol": '{target="predicton"}'}, OptionError, "none of truth, first, top-1 …, nor .* mean 'prediction'"),
        ({"protocol": '{target="mushrom"}'}, OptionError, "nor a class of scenes_.*; did you mean 'mushroom'"),
        ({"protocol": "{target=12}"}, OptionError, "out of range; this model has 12"),
        ({"protocol": '{target="top-13"}'}, SeewhyError, "rank 13 is out of range"),
    ],
)
def test_what_cannot_work_together_is_named_before_the_first_forward(changes, error, words, monkeypatch):
    monkeypatch.setattr("seewhy.models.adapter.VisionModel.run", None)
    with pytest.raises(error, match=words):
        Benchmark(Plan.parse(text(**changes))).check()


def test_data_without_masks_refuse_metrics_that_need_them(monkeypatch):
    from seewhy.core.cards import Requirement
    from seewhy.data import Scenes

    monkeypatch.setattr(Scenes, "card", replace(Scenes.card, has=frozenset({Requirement.LABEL})))
    with pytest.raises(OptionError, match="needs masks"):
        Benchmark(Plan.parse(text()))
    with pytest.raises(OptionError, match="needs boxes"):
        Benchmark(Plan.parse(text(metrics='["box_iou"]')))


def test_a_method_that_serves_only_one_of_two_models_is_skipped_for_the_other():
    models = Benchmark(Plan.parse(text(models='["scenes_cnn", "scenes_vit"]', methods='["lafam", "cdam"]'))).check()
    assert [list(model.skipped) for model in models] == [["cdam"], []]
    assert [list(model.methods) for model in models] == [["random", "lafam"], ["random", "lafam", "cdam"]]


def test_a_plan_changes_what_every_model_sees_but_not_its_colors():
    models = '["scenes_cnn", {name="again", source="scenes_cnn"}]'
    changes = "{preprocess={size=[32, 48], resize=[32, 48], crop='squash'}}"
    benchmark = Benchmark(Plan.parse(text(models=models, protocol=changes)))
    plain = Benchmark(Plan.parse(text())).setup("scenes_cnn").model.preprocess
    for label in ("scenes_cnn", "again"):
        changed = benchmark.setup(label).model.preprocess
        assert changed == replace(plain, size=(32, 48), resize=(32, 48), crop="squash")


def test_a_file_is_named_in_messages(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(text(seed="'x'"))
    with pytest.raises(OptionError, match=r"^mine.toml: seed must be an integer, got 'x'$"):
        Plan.read(path)
    with pytest.raises(OptionError, match=r"cannot read the plan .*pass the path of a TOML file"):
        Plan.read(tmp_path / "none.toml")


def test_the_former_name_of_reference_maps_still_works():
    old, new = (Plan.parse(text(**{key: '["center"]'})) for key in ("baselines", "reference_maps"))
    assert old.reference_maps == new.reference_maps == ("center",)


@pytest.fixture
def opened(monkeypatch):
    """Labels of models as they are opened, each with the models alive at that moment."""
    alive: weakref.WeakSet[VisionModel] = weakref.WeakSet()
    opened: list[tuple[str, int]] = []
    load = setup.load_model

    def counted(name, **options):
        opened.append((name, len(alive)))
        model = load(name, **options)
        alive.add(model)
        return model

    monkeypatch.setattr(setup, "load_model", counted)
    return SimpleNamespace(alive=alive, calls=opened)


FOUR_MODELS = '["scenes_cnn", "scenes_vit", {name="c", source="scenes_cnn"}, {name="d", source="scenes_vit"}]'


def test_one_model_is_alive_at_a_time(opened, tmp_path):
    plan = Plan.parse(text(models=FOUR_MODELS, data='{name="scenes", split="multi", n=1}'))
    benchmark = Benchmark(plan)
    benchmark.check()
    assert len(opened.alive) == 1
    assert opened.calls == [(name, 0) for name in ("scenes_vit", "scenes_cnn", "scenes_vit", "scenes_cnn")]
    assert benchmark.setup("scenes_cnn").label == "scenes_cnn"
    assert len(opened.calls) == 4  # the first is still open
    del benchmark
    opened.calls.clear()
    run(plan, tmp_path / "run")
    assert len(opened.calls) == 4 + 3  # once for the check, once for the work; the first of them once
    assert {alive for _, alive in opened.calls} == {0}
    opened.calls.clear()
    resume(tmp_path / "run")
    assert len(opened.calls) == 4  # nothing is left to do


def test_the_schema_describes_every_method_metric_and_preset():
    jsonschema = pytest.importorskip("jsonschema")
    schema = Plan.json_schema()
    validator = jsonschema.Draft202012Validator(schema)
    validator.check_schema(schema)
    for preset in list_presets():
        validator.validate(tomllib.loads(preset.text))
    names = {f"method.{name}" for name in METHODS} | {f"metric.{name}" for name in METRICS}
    assert names <= set(schema["$defs"])
    assert schema["$defs"]["method.rise"]["properties"]["n_masks"]["minimum"] == 1
    plan = tomllib.loads(text())
    for wrong in (
        {"modles": ["x"]},
        {"seed": "x"},
        {"methods": ["grad_kam"]},
        {"methods": [{"name": "rise", "n_mask": 3}]},
        {"methods": [{"name": "rise", "n_masks": 0}]},
        {"metrics": [{"name": "fidelity", "n_steps": "many"}]},
        {"protocol": {"upsampling": "cubic"}},
        {"protocol": {"size": [3]}},
        {"data": {"name": "scene"}},
        {"reference_maps": ["rnd"]},
    ):
        assert not validator.is_valid({**plan, **wrong}), wrong


def test_the_command_prints_the_schema():
    printed = CliRunner().invoke(app, ["schema"])
    assert json.loads(printed.output) == Plan.json_schema()
