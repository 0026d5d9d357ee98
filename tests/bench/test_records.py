"""Records of one batch, by hand: scores, parts, curves, the model's own predictions, stored maps, failures."""

from __future__ import annotations

import io
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from test_samples import CLASSES, Zoo, model_with

from seewhy.bench.execute import worker
from seewhy.bench.execute.records import (
    STORED_CELLS,
    STORED_SIDE,
    failed_records,
    image_records,
    map_records,
    metric_records,
    model_records,
    normalize_maps,
)
from seewhy.bench.execute.scoring import measure, out_of_memory
from seewhy.bench.map_maker import MapMaker
from seewhy.bench.plan import Plan, PlanEntry
from seewhy.bench.reference_maps import REFERENCE_MAPS
from seewhy.bench.setup import ModelSetup, WorkUnit
from seewhy.bench.store import ROWS, Store
from seewhy.core.preprocess import Preprocess
from seewhy.errors import ModelError
from seewhy.methods import GradCAM, LaFAM
from seewhy.metrics import BoxDiscrimination, Fidelity, Measurement, PointingGame, Sparseness

PLAN = """
models = ["toy"]
methods = ["grad_cam"]
metrics = ["pointing_game"]
data = {name = "scenes", split = "multi", n = 2}
protocol = {size = [16, 24], batch_size = 4, keep_maps = %s}
"""


class Halves(PointingGame):
    """Mean of the left half, with the right half as a part and the rows as a curve; NaN where that is below 0."""

    def score(self, maps, given):
        left, right = maps[..., :12].mean((1, 2)), maps[..., 12:].mean((1, 2))
        value = torch.where(left < 0, torch.nan, left)
        return Measurement(value, {"right": right}, {"": maps.mean(2)})


@pytest.fixture
def setup():
    return make_setup()


def make_setup(metrics=None, classes=CLASSES, keep_maps="true"):
    model, plan = model_with(Preprocess(size=(32, 48), resize=None)), Plan.parse(PLAN % keep_maps)
    makers = {"random": MapMaker("random", REFERENCE_MAPS["random"], 3), "cam": MapMaker("cam", GradCAM(model), 3)}
    entry = PlanEntry("toy", "my toy")
    return ModelSetup(plan, entry, model, Zoo(), metrics or {"pg": PointingGame()}, classes, makers, {})


def samples(*rows):
    return [(10 + row, Zoo()[row]) for row in rows]


def test_a_protocol_normalizes_each_map_by_its_own_values():
    maps = torch.tensor([[[-1.0, 0], [1, 3]], [[5, 5], [5, 5]], [[2, 4], [6, 10]]])
    assert normalize_maps(maps, "none") is maps
    minmax = [[[0, 0.25], [0.5, 1]], [[0, 0], [0, 0]], [[0, 0.25], [0.5, 1]]]
    assert normalize_maps(maps, "minmax").tolist() == minmax
    expected = [maps[0] / 3, torch.zeros(2, 2), maps[2] / 10]
    torch.testing.assert_close(normalize_maps(maps, "max"), torch.stack(expected))


def test_maps_are_normalized_before_they_are_resized_and_scored():
    sparseness = {}
    for how in ("none", "minmax"):
        setup = make_setup({"sparseness": Sparseness()})
        setup.plan = Plan.parse((PLAN % "true").replace("{size =", f'{{normalize = "{how}", size ='))
        batch = setup.batch(samples(0))
        maps = torch.linspace(10, 11, 16).reshape(1, 4, 4).expand(len(batch.pairs), 4, 4)
        (record, *_) = metric_records(setup, batch, setup.map_makers["cam"], maps, 0.0)
        sparseness[how] = record["value"]
    assert sparseness["none"] < 0.02
    assert sparseness["minmax"] > 0.3


def test_a_record_says_which_map_it_is_of_and_the_metric_is_asked_at_the_protocols_size(setup):
    batch, maker = setup.batch(samples(0, 1)), setup.map_makers["cam"]
    maps = maker(batch)
    records = metric_records(setup, batch, maker, maps, 0.25)
    assert [(r["sample"], r["index"], r["target"], r["entry"]) for r in records] == [
        ("three", 10, "dog", "three#dog"),
        ("three", 10, "cat", "three#cat"),
        ("one", 11, "bird", "one#bird"),
    ]
    common = {"model": "my toy", "data": "zoo", "split": "all", "method": "cam", "metric": "pg", "seconds": 0.25}
    assert all(record.items() >= {**common, "passes": 1.0}.items() for record in records)
    sized = torch.nn.functional.interpolate(maps[:, None], size=(16, 24), mode="bilinear")[:, 0]
    expected = PointingGame()(sized, masks=batch.metric_inputs((16, 24)).masks)
    assert [record["value"] for record in records] == expected.tolist()


def test_metrics_that_run_the_model_are_asked_at_its_input_size():
    sizes = {}

    def noting(cls, label):
        class Noting(cls):
            def measure(self, maps, given):
                sizes[label] = tuple(maps.shape[1:])
                return super().measure(maps, given)

        return Noting

    metrics = {"pg": noting(PointingGame, "pg")(), "fidelity": noting(Fidelity, "fidelity")(n_steps=2)}
    setup = make_setup(metrics)
    batch = setup.batch(samples(0))
    metric_records(setup, batch, setup.map_makers["random"], setup.map_makers["random"](batch), 0)
    assert sizes == {"pg": (16, 24), "fidelity": (32, 48)}


def test_parts_and_curves_are_records_and_a_missing_value_has_a_reason(monkeypatch):
    monkeypatch.setattr(Halves, "card", SimpleNamespace(**{**vars(PointingGame.card), "parts": {"right": True}}))
    setup = make_setup({"halves": Halves()})
    batch = setup.batch(samples(0, 1))
    maps = torch.ones(3, 16, 24) * torch.tensor([1.0, -1.0, 3.0])[:, None, None]
    maps[..., 12:] *= 2
    records = metric_records(setup, batch, setup.map_makers["cam"], maps, 0)
    values = {(r["entry"], r["metric"]): r for r in records}
    assert len(values) == 6
    assert [values[e, "halves.right"]["value"] for e in ("three#dog", "three#cat", "one#bird")] == [2, -2, 6]
    assert values["one#bird", "halves"]["value"] == 3
    assert values["one#bird", "halves"]["curve"] == [4.5] * 16
    assert values["one#bird", "halves"]["error"] is None
    failed = values["three#cat", "halves"]
    assert (failed["value"], failed["curve"], failed["error"]) == (None, None, "the metric gives no number")
    assert values["one#bird", "halves.right"]["curve"] is None


def test_a_contrast_is_the_map_of_the_other_class():
    seen = []

    class Noting(BoxDiscrimination):
        def measure(self, maps, given):
            seen.append((maps, given.contrast_maps))
            return Measurement(torch.zeros(len(maps)))

    metric = Noting()
    setup = make_setup({"bd": metric})
    setup.plan.protocol.__dict__["target"] = "first"
    batch, maker = setup.batch(samples(0, 1)), setup.map_makers["cam"]
    assert batch.pairs == [(0, 2), (1, 0), (0, 4)]
    maps = torch.arange(3.0)[:, None, None].expand(3, 32, 48)
    measure(setup, batch, maker, metric, maps)
    ((scored, contrasts),) = seen
    assert scored[:, 0, 0].tolist() == [0, 1]
    assert contrasts[0, 0, 0] == 2
    assert contrasts[1].isnan().all()  # the bird is alone


def test_a_metric_that_fails_is_asked_again_image_by_image(monkeypatch):
    calls = []

    class Failing(PointingGame):
        def measure(self, maps, given):
            calls.append(maps[:, 0, 0].tolist())
            if 1 in calls[-1]:
                raise RuntimeError("no such kernel\nat line 3")
            return Measurement(maps[:, 0, 0])

    metric = Failing()
    setup = make_setup({"f": metric})
    batch = setup.batch(samples(0, 1))
    maps = torch.arange(3.0)[:, None, None].expand(3, 32, 48)
    found = measure(setup, batch, setup.map_makers["cam"], metric, maps)
    assert calls == [[0, 1, 2], [0, 1], [2]]  # two of the first image, one of the second
    assert found.value.isnan().tolist() == [True, True, False]
    assert found.value[2] == 2
    assert found.reasons == dict.fromkeys((0, 1), "RuntimeError: no such kernel")


def test_memory_that_does_not_suffice_is_not_a_failure_of_the_metric():
    class Greedy(PointingGame):
        def measure(self, maps, given):
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    setup = make_setup({"g": Greedy()})
    with pytest.raises(RuntimeError, match="allocate"):
        measure(setup, setup.batch(samples(0)), setup.map_makers["cam"], Greedy(), torch.ones(2, 32, 48))
    errors = [torch.OutOfMemoryError(), MemoryError(), RuntimeError("other"), ValueError("can't allocate memory")]
    assert [out_of_memory(error) for error in errors] == [True, True, False, False]


def test_the_models_predictions_by_hand(setup):
    batch = setup.batch(samples(0, 1))
    batch.output.logits[:] = torch.tensor([[0.0, 5, 2, 1, 3], [9.0, 0, 0, 0, 0]])
    records = model_records(setup, batch)
    found = {(r["target"], r["metric"].removeprefix("model.")): r["value"] for r in records}
    softmax = np.exp([0, 5, 2, 1, 3]) / np.exp([0, 5, 2, 1, 3]).sum()
    assert {name: found["dog", name] for name in ("logit", "rank", "correct")} == {"logit": 2, "rank": 3, "correct": 0}
    assert {name: found["cat", name] for name in ("logit", "rank", "correct")} == {"logit": 3, "rank": 2, "correct": 0}
    assert {name: found["bird", name] for name in ("logit", "rank", "correct")} == {"logit": 9, "rank": 1, "correct": 1}
    assert found["dog", "probability"] == pytest.approx(softmax[2])
    assert {r["method"] for r in records} == {""}
    unmatched = make_setup(classes=None)
    unmatched.plan.protocol.__dict__["target"] = "top-1"
    correct = [
        r["value"] for r in model_records(unmatched, unmatched.batch(samples(0))) if r["metric"] == "model.correct"
    ]
    assert correct == [None]


def test_stored_maps_are_small_and_scaled_and_images_are_what_the_model_sees(setup):
    batch, maker = setup.batch(samples(0, 1)), setup.map_makers["cam"]
    maps = torch.zeros(4, 112, 84)  # the fourth is a contrast: not stored
    maps[0, :2, :2] = -4
    maps[1, 0, 0] = 8
    first, second, third = map_records(setup, batch, maker, maps)
    assert (first["rows"], first["cols"]) == (STORED_CELLS, 42)
    stored = np.frombuffer(first["map"], np.float16).reshape(STORED_CELLS, 42)
    assert stored[0, 0] == -1
    assert np.count_nonzero(stored) == 1
    assert np.frombuffer(second["map"], np.float16)[0] == 1
    assert not np.frombuffer(third["map"], np.float16).any()
    small = map_records(setup, batch, maker, torch.ones(3, 4, 6))
    assert {(record["rows"], record["cols"]) for record in small} == {(4, 6)}
    image, *_ = image_records(setup, batch)
    mask = np.asarray(Image.open(io.BytesIO(image["mask"])))
    np.testing.assert_array_equal(mask > 0, Zoo()[0].masks.any(0))
    assert max(Image.open(io.BytesIO(image["jpeg"])).size) <= STORED_SIDE
    without = make_setup(keep_maps="false")
    assert map_records(without, without.batch(samples(0)), maker, maps) == []
    assert image_records(without, without.batch(samples(0))) == []


def test_a_label_free_map_is_computed_once_for_each_image(setup):
    calls = []

    class Noting(LaFAM):
        def compute(self, x, target):
            calls.append(len(x))
            return super().compute(x, target)

    batch = setup.batch(samples(0, 1))
    label_free, by_class = MapMaker("lafam", Noting(setup.model), 0), setup.map_makers["cam"]
    maps = label_free(batch)
    assert calls == [2]
    assert (label_free.count_maps(batch), by_class.count_maps(batch)) == (2, 3)
    torch.testing.assert_close(maps[0], maps[1])
    assert not torch.allclose(maps[0], maps[2])
    random = setup.map_makers["random"](batch)
    for map_, (row, k) in zip(random, batch.pairs, strict=True):
        draws = np.random.default_rng([3, 10 + row, k + 1]).normal(size=(14, 14))
        np.testing.assert_allclose(map_, draws, rtol=1e-6)
    assert (setup.map_makers["random"].passes, by_class.passes) == (0, 1)


def test_failed_records_are_one_for_each_metric_or_one_for_the_model(setup):
    setup.metrics["other"] = PointingGame()
    assert [r["metric"] for r in failed_records(setup, "cam", 7, "x", "broken")] == ["pg", "other"]
    (record,) = failed_records(setup, "", 7, "x", "broken")
    assert (record["metric"], record["entry"], record["index"], record["error"]) == ("", "x#", 7, "broken")


def run_unit(setup, *rows, unreadable=None):
    return worker._UnitRunner(setup, samples(*rows), unreadable or {}).compute("cam")


def test_an_image_that_fails_costs_only_itself(setup, monkeypatch):
    compute = GradCAM.compute

    def failing(self, x, target):
        if len(x) > 1 or x.sum() == bad.sum():
            raise error
        return compute(self, x, target)

    bad = setup.batch(samples(1)).x
    monkeypatch.setattr(GradCAM, "compute", failing)
    setup.plan.protocol.__dict__["target"] = "first"
    reasons = {"ValueError: odd": ValueError("odd\nline"), "the model is odd": ModelError("the model is odd")}
    for reason, error in reasons.items():  # noqa: B007 (`failing` raises it)
        part = run_unit(setup, 0, 1, unreadable={2: "no file"})
        assert [(r["sample"], r["error"]) for r in part.rows] == [("three", None), ("one", reason), ("none", "no file")]
        assert len(part.images) == 1


def test_memory_that_does_not_suffice_halves_the_batch_from_then_on(setup, monkeypatch):
    calls = []
    compute = GradCAM.compute

    def greedy(self, x, target):
        calls.append(len(x))
        if len(x) > limit:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return compute(self, x, target)

    monkeypatch.setattr(GradCAM, "compute", greedy)
    setup.plan.protocol.__dict__["target"] = "first"
    limit = 2
    part = run_unit(setup, 0, 1, 0, 1, 0)
    assert setup.fitting_batch == 2
    assert calls == [4, 2, 2, 1]
    assert all(math.isfinite(record["value"]) for record in part.rows)
    limit = 0
    calls.clear()
    part = run_unit(setup, 0, 1)
    assert calls == [2, 1, 1]
    assert {r["error"] for r in part.rows} == {
        "out of memory with a single image; use a smaller model or another device"
    }


def test_a_unit_does_only_the_parts_that_are_missing(setup, tmp_path):
    opened, told = [], []

    def open_setup(label):
        opened.append(label)
        return setup

    benchmark = SimpleNamespace(
        plan=setup.plan,
        summary=lambda label: setup.summarize(),
        setup=open_setup,
        load=lambda batch: (samples(0, 1), {}),
    )
    store = Store.create(tmp_path / "run", PLAN % "true")
    unit, names = WorkUnit("my toy", 0), worker.part_names(setup.summarize(), 0)
    work = getattr(worker.work, "__wrapped__", worker.work)  # without the check of types: the benchmark is a stand-in
    for missing in (names, ["cam"], []):
        opened.clear()
        told.clear()
        for label in missing:
            (store.folder / ROWS / names[label]).unlink(missing_ok=True)
        work(benchmark, store, unit, lambda *part: told.append(part))
        assert opened == (["my toy"] if missing else [])
        assert told == [("my toy", label, 0) for label in ("", "random", "cam")]
        assert store.done() == set(names.values())
