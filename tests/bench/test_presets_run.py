"""Every preset from the command line to the report: official layouts on disk, official keys, random weights."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import simulated
from typer.testing import CliRunner

from seewhy.bench.presets import list_presets
from seewhy.bench.report import RunData
from seewhy.bench.toml import format_value
from seewhy.cli.bench import app

pytest.importorskip("timm")
pytest.importorskip("torchvision")

PRESETS = {preset.name: tomllib.loads(preset.text) for preset in list_presets()}
FACTS = tomllib.loads((Path(__file__).parent / "paper_facts.toml").read_text("utf-8"))
SMALL = {"timm": [32, 32], "torchvision": [96, 96]}
"""Sizes of images: two patches of a ViT, three cells of a ResNet."""

FEW_PASSES = {
    "metrics.fidelity.n_steps": 1,
    "metrics.fidelity_discrimination.n_steps": 1,
    "metrics.box_sensitivity.sizes": [2, 28],
    "metrics.box_sensitivity.n_samples": 2,
    "metrics.box_discrimination.sizes": [2, 28],
    "metrics.box_discrimination.n_samples": 2,
    "metrics.insertion.n_steps": 2,
    "metrics.deletion.n_steps": 2,
    "metrics.id_score.n_steps": 2,
    "methods.relax.n_masks": 8,
    "methods.u_relax.n_masks": 8,
    "methods.rise.n_masks": 8,
    "methods.smooth_cdam.n_samples": 2,
    "methods.integrated_cdam.n_steps": 2,
    "methods.smooth_grad.n_samples": 2,
    "methods.integrated_gradients.n_steps": 2,
    "methods.spectral_ig.n_steps": 2,
    "methods.guided_ig.n_steps": 2,
}


def entry_of(tables: Any, name: str) -> Any:
    """The entry of a list by its name, or the value of a table."""
    if isinstance(tables, Mapping):
        return tables[name]
    (found,) = (entry for entry in tables if (entry.get("name") if isinstance(entry, dict) else entry) == name)
    return found


def look_up(content: Any, path: str) -> Any:
    for name in path.split("."):
        content = entry_of(content, name)
    return content


# ── settings ──────────────────────────────────────────────────────────────────────────────────────────────────────────
SETTINGS = [(name, path) for name, facts in FACTS.items() for path in facts if path not in ("source", "training_plan")]


@pytest.mark.parametrize(("name", "path"), SETTINGS, ids=lambda part: part)
def test_a_setting_is_what_the_paper_says(name, path):
    given = {"protocol": {"normalize": "none"}}
    for table, values in PRESETS[name].items():
        given[table] = {**given[table], **values} if table in given else values
    assert look_up(given, path) == FACTS[name][path]


def test_every_table_of_a_paper_has_its_facts():
    with_figures = {name for name, plan in PRESETS.items() if plan.get("published")}
    assert FACTS.keys() == with_figures


# ── runs ──────────────────────────────────────────────────────────────────────────────────────────────────────────────
@dataclass(frozen=True)
class Case:
    """How a preset is run here.

    Attributes:
        layout: Makes the data in a folder.
        weights: Makes the checkpoints in a folder, for an architecture.
        official: The preset's own architecture.
        tiny: A small one of the same family, with options of the model's entry.
        gaps: Models and methods that cannot serve them.
        settings: Further changes on the command line; `{root}` is the folder of the data.
    """

    layout: Callable[[Path], Path]
    weights: Callable[..., dict[str, Path]] = lambda folder, architecture, **options: {}
    official: str = ""
    tiny: tuple[str, dict[str, Any]] = ("", {})
    gaps: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)


def vit(label: str, head: bool = True) -> Callable[..., dict[str, Path]]:
    def save(folder: Path, architecture: str, **options: Any) -> dict[str, Path]:
        return {label: simulated.save_vit(folder / "vit.pth", architecture, head, **options)}

    return save


def resnets(folder: Path, architecture: str, **options: Any) -> dict[str, Path]:
    return simulated.save_resnets(folder, architecture)


TINY_VIT = "vit_tiny_patch16_224"
DINO_8 = {"official": "vit_small_patch8_224.dino", "options": {"num_classes": 1000}}
CDAM = {"layout": simulated.imagenet, "weights": vit("dino_vit_s8"), **DINO_8}
NAVE = {"weights": vit("vit_s16", head=False), "official": "vit_small_patch16_224.dino"}
NAVE |= {"tiny": (TINY_VIT, {"dynamic_img_size": True})}
ALA = {
    "weights": vit("classifier"),
    "official": "vit_base_patch16_384",
    "gaps": ("classifier lrp", "classifier guided_backprop"),
}
NO_CLASSES = ("simclr grad_cam", "swav grad_cam")
CASES = {
    "cdam_multi": Case(**CDAM, tiny=(TINY_VIT, {"num_classes": 1000, "img_size": 32})),
    "cdam_val": Case(**CDAM, tiny=(TINY_VIT, {"num_classes": 1000, "img_size": 32})),
    "lafam_voc": Case(lambda root: simulated.voc(root, 2012), resnets, "resnet50", ("resnet18", {}), NO_CLASSES),
    "lafam_imagenet_s": Case(simulated.imagenet_s, resnets, "resnet50", ("resnet18", {}), NO_CLASSES),
    "nave_voc07": Case(lambda root: simulated.voc(root, 2007), **NAVE),
    "nave_voc12": Case(lambda root: simulated.voc(root, 2012), **NAVE),
    "nave_coco20k": Case(simulated.coco, **NAVE, settings=("data.ids_file={root}/coco_20k_filenames.txt",)),
    "ala_cub": Case(
        simulated.cub, **ALA, tiny=(TINY_VIT, {"num_classes": 200, "img_size": 32}), options={"num_classes": 200}
    ),
    "ala_imagenet_s": Case(
        simulated.imagenet_s,
        **ALA,
        tiny=(TINY_VIT, {"num_classes": 1000, "img_size": 32}),
        options={"num_classes": 1000},
    ),
    "cutouts": Case(simulated.folder, settings=("data.classes=imagenet",)),
    "scenes_multi": Case(lambda root: root),
    "scenes_objects": Case(lambda root: root),
    "scenes_shortcut": Case(lambda root: root),
}
QUICK = ("cdam_multi", "nave_voc07")
SLOW = (pytest.mark.slow, pytest.mark.timeout(900))


def changed(plan: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The lists of a plan with other numbers in entries that are there: `methods.relax.n_masks` = 8."""
    lists = {
        kind: [dict(e) if isinstance(e, dict) else {"name": e} for e in plan[kind]] for kind in ("methods", "metrics")
    }
    for path, value in changes.items():
        kind, name, option = path.split(".")
        for entry in lists[kind]:
            if entry["name"] == name:
                entry[option] = value
    return lists


def run_preset(tmp_path: Path, name: str, *settings: str, n: int, sources: Mapping[str, Path], root: Path) -> RunData:
    out = tmp_path / "value=99[1]"
    arguments = ["run", name, "--n", str(n), "-o", str(out), "--set", "protocol.device=cpu"]
    arguments += ["--root", str(root)] if PRESETS[name]["data"]["name"] != "scenes" else []
    for label, path in sources.items():
        arguments += ["--source", f"{label}={path}"]
    for setting in settings:
        arguments += ["--set", setting]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output or result.exception
    return RunData(out)


def check(run: RunData, name: str, gaps: tuple[str, ...]) -> None:
    """Every method of the plan that serves a model has a value by every metric that is asked of it."""
    named = [e["name"] if isinstance(e, dict) else e for e in PRESETS[name]["methods"]]
    skipped = {(entry["model"], entry["method"]) for entry in run.manifest["skipped"] if entry["named"]}
    assert skipped == {tuple(gap.split(" ")) for gap in gaps}
    rows = run.query(
        "SELECT method, metric, count(value), any_value(error) FROM scores WHERE method <> '' AND metric <> '' "
        "GROUP BY ALL"
    )
    expected = {method for method in named if f"classifier {method}" not in gaps} - {"all"}
    assert {method for method, *_ in rows} >= expected
    assert not [row for row in rows if not row[2]]


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in QUICK else SLOW) for n in CASES if CASES[n].tiny[0]])
def test_a_preset_runs_on_a_small_network_of_its_family(tmp_path, name):
    case, plan = CASES[name], PRESETS[name]
    architecture, options = case.tiny
    library = "timm" if "vit" in architecture else "torchvision"
    root = case.layout(tmp_path / "data")
    sources = case.weights(tmp_path, architecture, **options)
    models = [{**model, "architecture": f"{library}/{architecture}", **options} for model in plan["models"]]
    lists = {"models": models, **changed(plan, FEW_PASSES)}
    settings = [f"{key}={format_value(value)}" for key, value in lists.items()]
    if plan["protocol"]["preprocess"]["crop"] != "pad":
        settings += [f"protocol.preprocess.{key}={SMALL[library]}" for key in ("size", "resize")]
        settings += [f"protocol.size={SMALL[library]}"] if "size" in plan["protocol"] else []
    settings += [text.format(root=root) for text in case.settings]
    run = run_preset(tmp_path, name, *settings, n=2, sources=sources, root=root)
    check(run, name, gaps=case.gaps)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", CASES)
def test_a_preset_runs_as_it_is_but_for_the_number_of_passes(tmp_path, name):
    case, plan = CASES[name], PRESETS[name]
    root = case.layout(tmp_path / "data")
    sources = case.weights(tmp_path, case.official, **case.options)
    settings = [f"{key}={format_value(value)}" for key, value in changed(plan, FEW_PASSES).items()]
    settings += [text.format(root=root) for text in case.settings]
    run = run_preset(tmp_path, name, *settings, n=1 if case.official else 2, sources=sources, root=root)
    check(run, name, gaps=case.gaps)
    report = CliRunner().invoke(app, ["report", str(run.folder)])
    assert report.exit_code == 0, report.output or report.exception
