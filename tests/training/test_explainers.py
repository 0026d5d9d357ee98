"""Plans and presets of trained explainers, from the command line to maps, tables and the study."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
import toys
from PIL import Image
from typer.testing import CliRunner

import seewhy
from seewhy.cli import app
from seewhy.core.imagenet import imagenet_wnids
from seewhy.data import load_data
from seewhy.data.base import sample_indices
from seewhy.errors import DataError, OptionError, SeewhyError, UnknownNameError, WeightsError
from seewhy.methods.base import METHODS
from seewhy.training import ablation
from seewhy.training.ablation import FULL, NO_AEA, Results, Study, half_width
from seewhy.training.explainer_plan import FOLDER, ExplainerPlan

FACTS = tomllib.loads((Path(__file__).parents[1] / "bench/paper_facts.toml").read_text("utf-8"))
SMALL = ["heads=2", "layers=2", "patch=8", "width=8", "hidden=8", "lora_rank=2"]
SMALL = [f"network.{each}" for each in SMALL] + ["training.epochs=2", "training.batch_size=2"]
PLAN = """
model = "scenes_vit"
[data]
name = "scenes"
split = "single"
n = 6
[validation]
n = 2
[network]
heads = 2
layers = 2
patch = 8
width = 8
hidden = 8
lora_rank = 2
[training]
epochs = 2
batch_size = 4
lr = 0.001
"""


def invoke(*arguments: str | Path) -> str:
    result = CliRunner().invoke(app, [str(each) for each in arguments])
    if isinstance(result.exception, SeewhyError):
        raise result.exception
    assert result.exit_code == 0, result.output or result.exception
    return result.output


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    (folder / "plan.toml").write_text(PLAN)
    output = invoke("train", "ala", folder / "plan.toml", "-o", folder / "run", "--device", "cpu")
    assert f"explain with --method ala --weights {folder / 'run'}" in output
    load_data("scenes", split="single")[0].image.save(folder / "scene.png")
    return folder


# ── command line ──────────────────────────────────────────────────────────────────────────────────────────────────────
def test_explain_and_compare_take_the_weights(run):
    weights = ("--device", "cpu", "--weights", run / "run")  # no --model: the encoder is the plan's
    (row,) = json.loads(invoke("explain", run / "scene.png", *weights, "-o", run / "maps", "--json"))
    assert (row["method"], row["grid"]) == ("ala", [12, 12])
    named = json.loads(invoke("explain", run / "scene.png", "-M", "ala", *weights, "-o", run / "maps", "--json"))
    assert named[0]["method"] == "ala"
    shown = json.loads(
        invoke("compare", run / "scene.png", "-M", "cdam", "-M", "ala", *weights, "-o", run / "c.png", "--json")
    )
    assert [each["method"] for each in shown["maps"]] == ["cdam", "ala"]
    assert seewhy.Explanation.load(Path(row["folder"])).title == "Attention Lattice Adapter"


def test_a_folder_that_does_not_name_its_encoder_asks_for_it(run):
    from seewhy.methods.trained.fitted import Fitted

    fitted = Fitted.load(run / "run")
    dataclasses.replace(fitted, training={}).save(run / "nameless")
    with pytest.raises(OptionError, match="does not say how its encoder is opened; name it with --model"):
        invoke("explain", run / "scene.png", "--weights", run / "nameless", "-o", run / "maps")
    assert fitted.training["encoder"] == {"name": "scenes_vit"}


def test_info_and_methods_say_that_it_is_trained_first():
    assert "ala  yes  trained first: `seewhy train ala`" in re.sub(
        " {2,}", "  ", invoke("info", "scenes_vit", "--device", "cpu")
    )
    assert json.loads(invoke("methods", "ala", "--json"))[0]["trained"]


def test_without_weights_the_others_are_compared(run):
    from seewhy.cli.compare import _supported_methods

    names = _supported_methods(seewhy.load_model("scenes_vit", device="cpu"), with_concepts=False)
    assert "cdam" in names
    assert not {name for name in names if METHODS[name].card.trained}


def test_a_benchmark_takes_it_as_a_method(run):
    plan = f"""
models = ["scenes_vit"]
methods = [{{name = "ala", weights = "{run / "run"}"}}, "cdam"]
metrics = ["miou"]
data = {{name = "scenes", split = "single", n = 2}}
protocol = {{device = "cpu"}}
"""
    (run / "bench.toml").write_text(plan)
    invoke("bench", "run", run / "bench.toml", "-o", run / "bench")
    from seewhy.bench.report import RunData

    rows = RunData(run / "bench").query("SELECT method, count(value) FROM scores WHERE metric = 'miou' GROUP BY ALL")
    assert dict(rows) == {"ala": 2, "cdam": 2, "random": 2}


def test_a_method_without_weights_is_a_gap_of_a_benchmark(run):
    from seewhy.bench.plan import Plan
    from seewhy.bench.setup import Benchmark

    text = (run / "bench.toml").read_text() if (run / "bench.toml").is_file() else ""
    text = 'models = ["scenes_vit"]\nmethods = "all"\nmetrics = ["miou"]\ndata = {name = "scenes", n = 1}'
    summary = Benchmark(Plan.parse(text)).check()[0]
    assert "is trained before it explains: `seewhy train ala PLAN" in summary.skipped["ala"]


def test_abn_has_the_same_face(run):
    small = ["network={width = 8, depth = 1, hidden = 8}", "model=scenes_cnn"]
    settings = [part for each in small for part in ("--set", each)]
    invoke("train", "abn", run / "plan.toml", "-o", run / "abn", "--device", "cpu", *settings)
    model = ("--model", "scenes_cnn", "--device", "cpu", "--weights", run / "abn")
    (row,) = json.loads(invoke("explain", run / "scene.png", *model, "-o", run / "maps", "--json"))
    assert row["method"] == "abn"
    with pytest.raises(WeightsError, match="fitted on scenes_cnn, and scenes_vit is another architecture"):
        invoke("explain", run / "scene.png", "-m", "scenes_vit", *model[2:], "-o", run / "maps")


def test_a_run_that_ended_is_not_trained_again(run):
    before = (run / "run/explainer.safetensors").read_bytes()
    again = ("train", "ala", run / "plan.toml", "-o", run / "run", "--device", "cpu")
    with pytest.raises(OptionError, match="already holds a run"):
        invoke(*again)
    invoke(*again, "--resume")
    assert (run / "run/explainer.safetensors").read_bytes() == before


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("training.epoch=3", r"\[training\] has no option 'epoch'; did you mean 'epochs'"),
        ("network.heads=0", r"\[network\]: heads=0 is too small"),
        ("nettwork.heads=1", "has no option 'nettwork'; did you mean 'network'"),
        ("training.lr=0.0", "lr=0.0 must be above 0"),
        ("augmentation.crop=2.0", "crop=2.0 must be a share"),
        ("data=5", "data must be a table"),
        ("data.name=7", "names no data"),
        ("seed=-1", "seed = -1 must be an integer"),
    ],
)
def test_a_plan_that_cannot_be_is_refused_in_a_line(change, words):
    with pytest.raises(OptionError, match=words) as error:
        ExplainerPlan.parse("ala", PLAN, [change])
    assert "\n" not in str(error.value)


def test_plans_that_are_not_there(tmp_path):
    with pytest.raises(UnknownNameError, match="did you mean 'ala_cub'"):
        ExplainerPlan.read("ala", "ala_cup")
    (tmp_path / "bad.toml").write_text("a = ")
    with pytest.raises(OptionError, match="is not valid TOML"):
        ExplainerPlan.read("ala", tmp_path / "bad.toml")
    with pytest.raises(DataError, match="6 validation images leave none of 6"):
        ExplainerPlan.parse("ala", PLAN, ["validation.n=6"]).run(tmp_path / "run", device="cpu")


# ── presets ───────────────────────────────────────────────────────────────────────────────────────────────────────────
def look_up(content: object, path: str) -> object:
    for name in path.split("."):
        content = content[name]  # type: ignore[index]
    return content


SETTINGS = [(preset, key) for preset, facts in FACTS.items() for key in facts.get("training_plan", {})]


@pytest.mark.parametrize(("preset", "key"), SETTINGS, ids=lambda part: part)
def test_a_setting_is_what_the_paper_says(preset, key):
    plan = tomllib.loads((FOLDER / f"{preset}.toml").read_text("utf-8"))
    assert look_up(plan, key) == FACTS[preset]["training_plan"][key]


def test_every_training_preset_has_its_facts():
    assert {preset for preset, _ in SETTINGS} == {file.stem for file in FOLDER.glob("*.toml")}


def cub(root: Path, images: int = 8) -> Path:
    """The official layout: five birds to train on in every eight, three to test on."""
    folder = root / "CUB_200_2011"
    classes = [f"{i:03d}.Bird_{i}" for i in range(1, 201)]
    names = [f"{classes[i]}/Bird_{i}" for i in range(images)]
    for i, name in enumerate(names):
        for part in ("images", "segmentations"):
            (folder / part / classes[i]).mkdir(parents=True)
        pixels = np.random.default_rng(i).integers(0, 255, (40, 50, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"images/{name}.jpg")
        Image.fromarray((pixels[..., 0] > 120).astype(np.uint8) * 255).save(folder / f"segmentations/{name}.png")
    lists = {
        "images": [f"{name}.jpg" for name in names],
        "image_class_labels": list(range(1, images + 1)),
        "train_test_split": [int(i < 5) for i in range(images)],
        "classes": classes,
        "bounding_boxes": ["5.0 5.0 30.0 28.0"] * images,
    }
    for name, values in lists.items():
        (folder / f"{name}.txt").write_text("".join(f"{i} {value}\n" for i, value in enumerate(values, 1)))
    return root


def imagenet_s(root: Path) -> Path:
    """Training images in class folders, of which two are in `train-semi` with masks as well."""
    wnids = sorted(imagenet_wnids())[:919]
    top = root / "ImageNetS919"
    for part in ("train", "train-semi", "train-semi-segmentation"):
        for wnid in wnids:
            (top / part / wnid).mkdir(parents=True)
    for i in range(6):
        wnid = wnids[10 * i]
        name = f"{wnid}/{wnid}_{i}"
        image = Image.fromarray(np.random.default_rng(i).integers(0, 255, (30, 40, 3)).astype(np.uint8))
        image.save(top / f"train/{name}.JPEG")
        if i < 2:
            image.save(top / f"train-semi/{name}.JPEG")
            values = np.full((30, 40), 10 * i + 1)
            rgb = np.stack([values % 256, values // 256, values * 0], -1).astype(np.uint8)
            Image.fromarray(rgb).save(top / f"train-semi-segmentation/{name}.png")
    return root


@pytest.mark.parametrize(("preset", "layout"), [("ala_cub", cub), ("ala_imagenet_s", imagenet_s)])
def test_a_preset_trains_on_a_handful_with_a_tiny_encoder(preset, layout, tmp_path):
    pytest.importorskip("timm")
    root = layout(tmp_path / "data")
    changes = [*SMALL, 'model={name="timm/test_vit", pretrained=false}']
    changes += ["preprocess.size=[64, 64]", "preprocess.resize=[64, 64]", "training.workers=0"]
    changes += ["validation.n=2"] if preset == "ala_cub" else []
    plan = ExplainerPlan.read("ala", preset, [*changes, f'data.root="{root}"'])
    torch.manual_seed(0)
    model = plan.load_model("cpu")
    train, held = plan.load_images(model)
    names = [[data.name(i) for i in range(len(data))] for data in (train, held)]
    if preset == "ala_cub":  # 5 to train: 3 and 2 that are held out; 3 to test
        assert list(map(len, names)) == [3, 2]
        assert len(train.classes) == 200
    else:  # 6 to train, of which 2 have masks
        assert list(map(len, names)) == [4, 2]
        assert len(train.classes) == 6
    assert not set(names[0]) & set(names[1])
    ala = plan.run(tmp_path / "run", device="cpu", model=model)
    assert ala(model.preprocess_images([train.read(0)[0]])).shape == (1, 8, 8)


def test_cubs_split_has_the_papers_numbers():
    """994 of the official 5,994 training images, drawn by the seed: 5,000 are left."""
    held = sample_indices(994, 5994, 0)
    assert len(set(range(5994)) - set(held)) == 5000
    assert held == sample_indices(994, 5994, 0)


# ── the study ─────────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.timeout(300)
def test_the_study_runs_goes_on_and_writes_its_table(tmp_path, monkeypatch):
    monkeypatch.setattr(ablation, "OTHERS", ("grad_cam", "guided_backprop", "cdam"))
    sizes = ["train=4", "validation=3", "test=3", "n_steps=1", "epochs=1"]
    settings = [part for each in sizes for part in ("--set", each)]
    invoke("train", "ablation", "-o", tmp_path / "study", "--quick", *settings)
    page = (tmp_path / "study/ablation.md").read_text()
    for row in ("ALA + AEA + LoRA", "without LoRA", "Grad-CAM", "CDAM", "| Guided backprop | cannot serve scenes_vit"):
        assert row in page
    assert Image.open(tmp_path / "study/ablation.png").width > 500
    again = json.loads((tmp_path / "study/results.json").read_text())
    (tmp_path / "study/scores/cdam.json").unlink()
    shutil.rmtree(tmp_path / "study/runs/without_lora-0")
    Study.planned(True, None, sizes).run(tmp_path / "study", lambda line: None)
    assert json.loads((tmp_path / "study/results.json").read_text()) == again
    with pytest.raises(SeewhyError, match="holds a study of other sizes"):
        Study.planned(True, None, ["test=4"]).run(tmp_path / "study", lambda line: None)
    with pytest.raises(OptionError, match="did you mean 'epochs'"):
        Study.planned(True, None, ["epoch=4"])


def test_the_study_takes_a_folder_of_images_with_masks(tmp_path, monkeypatch):
    monkeypatch.setattr(ablation, "OTHERS", ("cdam",))
    monkeypatch.setattr(ablation, "VARIANTS", {name: ablation.VARIANTS[name] for name in (FULL, NO_AEA)})
    lines = ["file,label"]
    for part in ("images", "masks"):
        (tmp_path / "data" / part).mkdir(parents=True)
    scenes = load_data("scenes", split="single", n=10)
    for i, scene in enumerate(scenes[:]):
        scene.image.resize((192, 96)).save(tmp_path / f"data/images/{i}.png")
        mask = Image.fromarray(scene.masks[0].astype(np.uint8) * 255).resize((192, 96), Image.Resampling.NEAREST)
        mask.save(tmp_path / f"data/masks/{i}.png")
        lines.append(f"{i}.png,{scenes.class_names[scene.labels[0]]}")
    (tmp_path / "data/labels.csv").write_text("\n".join(lines))
    sizes = [f"root={tmp_path / 'data'}", "train=4", "validation=3", "test=3", "n_steps=1", "epochs=1"]
    results = Study.planned(True, None, sizes).run(tmp_path / "study", lambda line: None)
    assert results.values(FULL, "id").shape == (1, 3)
    with pytest.raises(DataError, match="has 10 images of one object, and 11 are asked for"):
        Study.planned(True, None, [*sizes, "train=5"]).run(tmp_path / "other", lambda line: None)


def test_masks_lie_where_the_model_sees_them():
    from seewhy.data.base import Sample

    model = toys.toy_vit()
    model.preprocess = seewhy.Preprocess(size=(32, 48), resize=32, crop="center")
    mask = np.zeros((1, 64, 192), bool)
    mask[0, 16:32, 60:90] = True  # the model sees columns 48 to 144, at half the size
    seen = ablation._seen(model, Sample("a", Image.new("RGB", (192, 64)), (0,), mask), (32, 48))
    expected = np.zeros((32, 48), bool)
    expected[8:16, 6:21] = True
    np.testing.assert_array_equal(seen, expected)
    with pytest.raises(DataError, match="a has no mask"):
        ablation._seen(model, Sample("a", Image.new("RGB", (192, 64)), (0,)), (32, 48))


def test_differences_are_paired_and_intervals_those_of_the_mean():
    scores = [{"area": [0.1, 0.2, 0.3]}, {"area": [0.3, 0.4, 0.5]}]
    others = [{"area": [0.1, 0.1, 0.1]}, {"area": [0.1, 0.1, 0.1]}]
    results = Results(Study(), {FULL: scores, NO_AEA: others}, {}, {})
    mean, half = results.difference(FULL, NO_AEA, "area")
    assert mean == pytest.approx(0.2)
    assert half == pytest.approx(0.1 * np.sqrt(2 / 3) * 1.96 / np.sqrt(3), rel=0.3)
    assert results.mean(FULL, "area")[2] == pytest.approx(np.std([0.2, 0.4], ddof=1))
    values = np.random.default_rng(0).normal(size=400)
    assert half_width(values) == pytest.approx(1.96 * values.std() / 20, rel=0.1)
