"""A run finds what the methods and metrics give when they are called by hand, and survives what can go wrong."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from plans import small, table

import seewhy
from seewhy.bench.execute import run as engine
from seewhy.bench.execute.scoring import concatenate
from seewhy.bench.parts import ROWS, schemas
from seewhy.core.cards import Cost
from seewhy.core.maps import resize_maps
from seewhy.data import Sample, Scenes
from seewhy.data.base import sample_indices
from seewhy.errors import ImageError
from seewhy.methods import METHODS, Method
from seewhy.methods.base import method
from seewhy.metrics import FidelityDiscrimination, Measurement, PointingGame, Sparseness


@pytest.fixture(scope="module")
def model():
    return seewhy.load_model("scenes_cnn", device="cpu")


@pytest.fixture
def breaking(monkeypatch):
    """A method that a test breaks by replacing `maps`; a gradient-free one."""

    @method(
        name="breaking",
        title="Breaking",
        summary="the input's mean",
        needs=set(),
        signed=False,
        class_specific=True,
        citation="none",
        cost=lambda self: Cost.whole(0),
        register=False,
    )
    class Breaking(Method):
        def compute(self, x, target):
            return x.mean(1)

    monkeypatch.setitem(METHODS._entries, "breaking", Breaking)
    return Breaking


def values(store, method: str, metric: str) -> list:
    rows = store.table("SELECT value FROM rows WHERE method = ? AND metric = ? ORDER BY index, entry", [method, metric])
    return rows.column("value").to_pylist()


def test_values_are_those_of_direct_calls_and_the_columns_are_the_promised_ones(model, tmp_path):
    plan = small(
        n="n = 3",
        metrics='metrics = ["pointing_game", "sparseness", {name="fidelity_discrimination", n_steps=2}]',
        batch_size="batch_size = 3",
    )
    store = engine.run(plan, tmp_path / "run")
    assert store.table("SELECT * FROM rows").schema == schemas()[ROWS]
    items = [Scenes("multi")[i] for i in sample_indices(3, 1000)]
    entries = [(row, k, name) for row, item in enumerate(items) for k, name in enumerate(item.class_names)]
    rows, labels = [row for row, _, _ in entries], [items[row].labels[k] for row, k, _ in entries]
    x = model.preprocess_batch([item.image for item in items])
    maps = resize_maps(seewhy.methods.GradCAM(model)(x, labels, image_index=rows), (96, 96))
    masks = torch.stack([torch.from_numpy(items[row].masks[k]) for row, k, _ in entries])
    contrast_maps = maps[
        [
            entries.index(
                (row, (k + 1) % len(items[row].labels), items[row].class_names[(k + 1) % len(items[row].labels)])
            )
            for row, k, _ in entries
        ]
    ]
    want = {
        "pointing_game": PointingGame()(maps, masks=masks),
        "sparseness": Sparseness()(maps),
        "fidelity_discrimination": FidelityDiscrimination(n_steps=2)(
            maps, model=model, x=x[rows], target=labels, contrast_maps=contrast_maps
        ),
    }
    order = sorted(range(len(entries)), key=lambda i: (rows[i], entries[i][2]))
    for name, column in want.items():
        assert values(store, "grad_cam", name) == column[order].tolist(), name
    assert set(values(store, "lafam", "fidelity_discrimination")) == {0.0}  # one map for both classes


def test_the_models_own_answers_images_maps_and_the_manifest(model, tmp_path):
    store = engine.run(small(n="n = 2", methods='methods = ["lafam", "saliency"]'), tmp_path / "run")
    index = sample_indices(2, 1000)[0]
    item = Scenes("multi")[index]
    logits = model.predict(item.image)[0]
    rows = store.table("SELECT * FROM rows WHERE method = '' AND index = ?", [index]).to_pylist()
    found = {(row["target"], row["metric"]): row["value"] for row in rows}
    for name, label in zip(item.class_names, item.labels, strict=True):
        assert found[name, "model.logit"] == pytest.approx(logits[label].item(), abs=1e-4)
        assert found[name, "model.probability"] == pytest.approx(logits[label].sigmoid().item(), abs=1e-5)
        assert found[name, "model.correct"] == float(int(logits.argmax()) in item.labels)
    maps = store.table("SELECT * FROM maps WHERE sample = ?", [item.id]).to_pylist()
    sizes = {(row["method"], row["rows"], row["cols"], len(row["map"])) for row in maps}
    assert sizes == {("random", 14, 14, 392), ("lafam", 12, 12, 288), ("saliency", 56, 56, 6272)}
    lafam = next(row for row in maps if row["method"] == "lafam")
    own = seewhy.methods.LaFAM(model)(model.preprocess_batch([item.image]))[0]
    stored = np.frombuffer(lafam["map"], np.float16).reshape(12, 12)
    assert np.allclose(stored, (own / own.abs().max()).numpy(), atol=2e-3)
    (image,) = store.table("SELECT * FROM images WHERE sample = ?", [item.id]).to_pylist()
    assert image["jpeg"][:2] == b"\xff\xd8"
    assert image["mask"][:4] == b"\x89PNG"
    manifest = store.manifest
    assert manifest["finished"]
    assert [m["label"] for m in manifest["methods"]] == ["random", "lafam", "saliency"]
    assert [m["passes"] for m in manifest["methods"]] == [0, 1, 1]
    assert manifest["metrics"][2]["parts"]
    assert len(manifest["metrics"][2]["axis"]) == 3
    json.dumps(manifest)


@pytest.mark.parametrize("target", ["prediction", "top-2", "star"])
def test_a_word_of_explain_as_target_gives_the_map_of_explain(target, model, tmp_path):
    plan = small(n="n = 3", split='split = "multi"', device=f'device = "cpu"\ntarget = "{target}"')
    store = engine.run(plan, tmp_path / "run")
    word = {"prediction": "top-1"}.get(target, target)
    data = Scenes("multi")
    want = []
    for i in sample_indices(3, len(data)):
        x = model.preprocess_batch([data[i].image])
        full = resize_maps(seewhy.methods.GradCAM(model)(x, word), (96, 96))
        mask = data[i].union
        if word == "star":  # its own objects, in the images that show one
            mask = np.any(data[i].masks[[name == word for name in data[i].class_names]], axis=0)
        score = PointingGame()(full, masks=torch.from_numpy(np.broadcast_to(mask, (1, 96, 96)).copy())).item()
        want.append(None if math.isnan(score) else score)
    assert values(store, "grad_cam", "pointing_game") == want


def test_a_method_that_cannot_serve_a_model_is_a_row_with_the_reason(tmp_path):
    store = engine.run(
        small(
            models='models = ["scenes_cnn", "scenes_vit"]',
            methods='methods = ["lafam", "cdam"]',
            metrics='metrics = ["sparseness"]',
            n="n = 2",
        ),
        tmp_path / "run",
    )
    (row,) = store.table("SELECT * FROM rows WHERE error IS NOT NULL").to_pylist()
    assert (row["model"], row["method"], row["sample"]) == ("scenes_cnn", "cdam", "")
    assert "cannot serve" in row["error"]
    assert store.manifest["skipped"][0]["method"] == "cdam"


def test_a_corrupt_image_costs_only_itself(tmp_path, monkeypatch):
    broken = sample_indices(4, 1000)[1]
    clean = engine.run(small(n="n = 4"), tmp_path / "clean")
    read = Scenes.read

    def bad(self, index):
        if index == broken:
            raise ImageError("the file ends too early")
        return read(self, index)

    monkeypatch.setattr(Scenes, "read", bad)
    store = engine.run(small(n="n = 4"), tmp_path / "run")
    errors = store.table("SELECT * FROM rows WHERE error IS NOT NULL").to_pylist()
    assert {(row["index"], row["error"]) for row in errors} == {(broken, "the file ends too early")}
    assert {row["method"] for row in errors} == {"", "random", "grad_cam", "lafam"}
    kept = [row["value"] for row in table(store) if row.get("error", "") is None]
    want = [row["value"] for row in table(clean) if row.get("index", broken) != broken]
    # a batch of one rounds otherwise than one of two, which turns the order of nearly equal pixels in a few curves
    assert kept == pytest.approx(want, rel=0.02, abs=1e-3)
    assert sum(a == pytest.approx(b, rel=1e-4, abs=1e-3) for a, b in zip(kept, want, strict=True)) > 0.95 * len(want)


def test_a_metric_that_fails_on_one_image_costs_that_number_only(tmp_path, monkeypatch):
    item = Scenes("multi")[sample_indices(4, 1000)[1]]
    bad = {int(mask.sum()) for mask in item.masks}
    score = PointingGame.score

    def broken(self, maps, given):
        if bad & set(given.masks.flatten(1).sum(1).tolist()):
            raise RuntimeError("no such luck\nat line 3")
        return score(self, maps, given)

    plan = small(
        n="n = 4",
        batch_size="batch_size = 4",
        methods='methods = ["lafam"]',
        metrics='metrics = [{name="fidelity", n_steps=2}, "pointing_game", "sparseness"]',
    )
    clean = engine.run(plan, tmp_path / "clean")
    monkeypatch.setattr(PointingGame, "score", broken)
    store = engine.run(plan, tmp_path / "run")
    errors = store.table("SELECT DISTINCT sample, metric, error FROM rows WHERE error IS NOT NULL").to_pylist()
    assert errors == [{"sample": item.id, "metric": "pointing_game", "error": "RuntimeError: no such luck"}]
    kept = [row for row in table(clean) if (row["sample"], row.get("metric")) != (item.id, "pointing_game")]
    assert [row for row in table(store) if not row.get("error")] == kept


def test_measurements_join_where_a_piece_has_no_parts():
    one = Measurement(torch.tensor([1.0, 2.0]), {"p": torch.tensor([3.0, 4.0])}, {"": torch.ones(2, 3)}, {1: "a"})
    none = Measurement(torch.tensor([torch.nan]), reasons={0: "b"})
    both = concatenate([none, one])
    assert both.value.isnan().tolist() == [True, False, False]
    assert both.parts["p"][1:].tolist() == [3, 4]
    assert both.parts["p"][0].isnan()
    assert both.curves[""].shape == (3, 3)
    assert both.reasons == {0: "b", 2: "a"}


def test_a_image_without_a_class_is_a_row_in_any_company(tmp_path, monkeypatch):
    bare = sample_indices(3, 1000)[1]
    read = Scenes.read

    def some(self, index):
        item = read(self, index)
        return Sample(item.id, item.image, masks=item.masks[:0]) if index == bare else item

    monkeypatch.setattr(Scenes, "read", some)
    for size in (1, 3):
        store = engine.run(
            small(n="n = 3", metrics='metrics = ["sparseness"]', batch_size=f"batch_size = {size}"),
            tmp_path / str(size),
        )
        rows = store.table("SELECT DISTINCT index, error FROM rows WHERE error IS NOT NULL").to_pylist()
        assert rows == [{"index": bare, "error": "the image shows no class"}]


def test_a_nan_map_is_an_error_row_and_its_neighbors_are_scored(tmp_path, monkeypatch, model, breaking):
    item = Scenes("multi")[sample_indices(4, 1000)[2]]
    bad = model.preprocess_batch([item.image])[0].mean()

    def compute(self, x, target):
        values = x.mean(1)
        values[torch.isclose(x.mean((1, 2, 3)), bad, atol=1e-6)] = torch.nan
        return values

    monkeypatch.setattr(breaking, "compute", compute)
    store = engine.run(small(n="n = 4", methods='methods = ["breaking"]'), tmp_path / "run")
    rows = store.table("SELECT * FROM rows WHERE method = 'breaking'").to_pylist()
    assert {row["sample"] for row in rows if row["error"]} == {item.id}
    assert all("NaN" in row["error"] for row in rows if row["error"])
    assert len({row["sample"] for row in rows if row["value"] is not None}) == 3


def test_out_of_memory_halves_the_batch_and_remembers(tmp_path, monkeypatch, breaking):
    calls = []

    def compute(self, x, target):
        calls.append(len(x))
        if len(x) > 7:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return x.mean(1)

    whole = engine.run(small(methods='methods = ["breaking"]', batch_size="batch_size = 4"), tmp_path / "whole")
    monkeypatch.setattr(breaking, "compute", compute)
    store = engine.run(small(methods='methods = ["breaking"]', batch_size="batch_size = 4"), tmp_path / "run")
    assert [n > 7 for n in calls] == [True, False, False, False, False]
    assert values(store, "breaking", "fidelity") == pytest.approx(values(whole, "breaking", "fidelity"), abs=1e-3)
    assert not store.table("SELECT * FROM rows WHERE error IS NOT NULL").num_rows


def test_a_single_image_that_does_not_fit_is_a_row(tmp_path, monkeypatch, breaking):
    def compute(self, x, target):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(breaking, "compute", compute)
    store = engine.run(small(n="n = 2", methods='methods = ["breaking"]'), tmp_path / "run")
    errors = store.table("SELECT DISTINCT error FROM rows WHERE method = 'breaking'").to_pylist()
    assert [row["error"].split(";")[0] for row in errors] == ["out of memory with a single image"]


def test_a_metric_that_fails_costs_only_its_own_rows(tmp_path, monkeypatch):
    def score(self, maps, given):
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(Sparseness, "score", score)
    store = engine.run(small(n="n = 2"), tmp_path / "run")
    assert store.table("SELECT DISTINCT metric, error FROM rows WHERE error IS NOT NULL").to_pylist() == [
        {"metric": "sparseness", "error": "RuntimeError: no such kernel"}
    ]
    assert None not in values(store, "grad_cam", "pointing_game")


def test_the_command_runs_a_plan_and_refuses_a_second_time(tmp_path, monkeypatch, capsys):
    from seewhy.cli import main

    (tmp_path / "plan.toml").write_text(small(n="n = 2", metrics='metrics = ["sparseness"]').text)
    line = ["seewhy", "bench", "run", str(tmp_path / "plan.toml"), "-o", str(tmp_path / "run"), "--json"]
    codes = []
    for command in (line, line, ["seewhy", "bench", "resume", str(tmp_path / "run")]):
        monkeypatch.setattr("sys.argv", command)
        with pytest.raises(SystemExit) as stop:
            main()
        codes.append(stop.value.code or 0)
        if len(codes) == 1:
            said = json.loads(capsys.readouterr().out)
            assert [row["method"] for row in said["methods"]] == ["grad_cam", "lafam", "random"]
    assert codes == [0, 1, 0]
    assert "resume" in capsys.readouterr().err
