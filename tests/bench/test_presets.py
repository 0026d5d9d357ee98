"""The plans that come with seewhy."""

from __future__ import annotations

import pytest

from seewhy.bench.plan import Plan
from seewhy.bench.presets import list_presets, plan_text
from seewhy.bench.toml import dump_toml
from seewhy.errors import OptionError, UnknownNameError
from seewhy.methods import METHODS

KNOWN = list_presets()


@pytest.mark.parametrize("preset", KNOWN, ids=lambda p: p.name)
def test_every_name_and_option_exists(preset):
    plan = Plan.parse(preset.text)
    made = plan.build_metrics()
    parts = {f"{label}.{part}" for label, metric in made.items() for part in metric.card.parts}
    assert preset.about
    models = {choice.label for choice in plan.models}
    for model, methods in plan.published.items():
        if model in ("source", "note", "percent"):
            continue
        assert model in models
        for method, figures in methods.items():
            assert method == "ala" or method in METHODS  # ALA's own method is trained, not run
            assert set(figures) <= set(made) | parts
            assert all(isinstance(value, int | float) for value in figures.values())


def test_figures_as_the_papers_print_them():
    told = {preset.name: Plan.parse(preset.text).published for preset in KNOWN}
    assert told["lafam_imagenet_s"]["swav"]["lafam"]["auc"] == 83.03
    assert told["lafam_voc"]["supervised"]["grad_cam"]["top_k_intersection"] == 65.46
    assert told["cdam_multi"]["dino_vit_s8"]["smooth_cdam"]["fidelity"] == 827
    assert told["cdam_val"]["dino_vit_s8"]["relevance_propagation"]["fidelity.lif"] == 1432
    assert told["ala_cub"]["classifier"]["score_cam"]["insertion"] == 0.604
    for name in ("cdam_multi", "cdam_val"):  # a slip of the pen would break LIF − MIF
        for figures in told[name]["dino_vit_s8"].values():
            if isinstance(figures, dict):
                # the paper prints 1459 − 696 as 753
                assert abs(figures["fidelity.lif"] - figures["fidelity.mif"] - figures["fidelity"]) <= 10


def test_what_runs_offline_needs_nothing():
    assert {preset.name for preset in KNOWN if not preset.needs} == {
        "scenes_multi",
        "scenes_objects",
        "scenes_shortcut",
    }


def test_changes_on_the_command_line_change_that_and_nothing_else():
    before = Plan.parse(plan_text("lafam_voc"))
    text = plan_text(
        "lafam_voc", root='/a "b"', n=5, sources=["swav=/x.pth"], settings=["protocol.batch_size=4", "data.task=boxes"]
    )
    plan = Plan.parse(text)
    assert plan.data.model_dump() == {**before.data.model_dump(), "root": '/a "b"', "n": 5, "task": "boxes"}
    assert plan.data.options == {**before.data.options, "task": "boxes"}
    assert plan.protocol.batch_size == 4
    assert [m.name for m in plan.models] == ["resnet50_supervised.pth", "resnet50_simclr.pth", "/x.pth"]
    assert plan.metrics == before.metrics
    assert plan.published == before.published


def test_a_file_is_a_plan_too(tmp_path):
    path = tmp_path / "p.toml"
    path.write_text(plan_text("cutouts"))
    assert plan_text(path) == plan_text("cutouts")


def test_what_cannot_be_says_so():
    with pytest.raises(UnknownNameError, match=r"did you mean 'scenes_multi'"):
        plan_text("scene_multi")
    with pytest.raises(OptionError, match="key=value"):
        plan_text("cutouts", settings=["n"])
    with pytest.raises(OptionError, match=r"does not name a model.*efficientnet_lite0"):
        plan_text("cutouts", sources=["resnet=x"])
    with pytest.raises(OptionError, match=r"cannot set seed.a: seed is not a table"):
        plan_text("cutouts", settings=["seed.a=1"])


def test_text_survives_toml():
    import tomllib

    content = {"a": 'x "y" \\ \n', "l": [1, 2.5, True, {"k e": "ü"}], "t": {"x.y": {"z": 1}}}
    assert tomllib.loads(dump_toml(content)) == content
