"""The study of nodules: the tables say where a map lies, on synthetic nodules and on data laid out as LIDC."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from toys import toy_vit
from typer.testing import CliRunner

from seewhy.cli import app
from seewhy.data import LIDC, Nodules
from seewhy.data.lidc_marks import BIOMARKERS
from seewhy.data.nodules import PARTS
from seewhy.explanation import Explanation
from seewhy.training import FineTuneSettings, lidc_study
from seewhy.training.nodule_study import MAPS, SHOWN_IN, _measure, interval, parts_of

QUICK = FineTuneSettings(dropout=0.0, blocks=1, epochs=1, batch_size=16, balance=None)


def test_the_study_of_synthetic_nodules(tmp_path: Path) -> None:
    study = lidc_study(toy_vit(), Nodules(40), out=tmp_path, settings=QUICK, shares=(0.6, 0.2, 0.2), rows=2)
    text = (tmp_path / "study.md").read_text()
    for name, part in SHOWN_IN.items():
        row = next(line for line in text.splitlines() if line.startswith(f"| {name} |"))
        assert f"| {part} |" in row
        assert f"{study.places[name][part][0]:.2f} [" in row
    assert set(study.places) == set(MAPS)
    assert set(study.places["margin"]) == {"nodule", *PARTS} - {"background"}
    figure = Image.open(tmp_path / "figure.png")
    assert figure.width > 12 * 144
    assert json.loads((tmp_path / "study.json").read_text())["tested"] == len(study.biomarkers.test)
    again = lidc_study(toy_vit(), Nodules(40), out=tmp_path, settings=QUICK, shares=(0.6, 0.2, 0.2), resume=True)
    assert again.places == study.places


def test_a_map_on_its_part_is_found_there() -> None:
    """Maps that are the parts themselves: the area is 1 on the own part, and the others are no better than chance."""
    data = Nodules(12)
    parts = [parts_of(data, i, data[i]) for i in range(12)]
    maps = []
    for i, found in enumerate(parts):
        size = {"input_size": (96, 96), "box": (0.0, 0.0, 96.0, 96.0), "image_size": (96, 96)}
        blank = Explanation(torch.rand(96, 96), "cdam", signed=True, image=data[i].image, **size)
        shown = dict.fromkeys(MAPS, blank)
        for name, part in SHOWN_IN.items():
            shown[name] = replace(blank, attribution=torch.from_numpy(found[part]).float() * -2)
        maps.append(shown)
    places, signs, gains = _measure(maps, parts)
    for name, part in SHOWN_IN.items():
        assert places[name][part] == (1.0, 1.0, 1.0)
        assert signs[name][part] == (-1.0, -1.0, -1.0)
        assert gains[name][1] > 0.1
    assert places["attention"]["body"][0] == pytest.approx(0.5, abs=0.05)


def test_lidc_has_body_and_edge_by_its_masks(tmp_path: Path) -> None:
    names = {f"{name}_mm" if name == "diameter" else name: name for name in BIOMARKERS}
    rows = [",".join(["id", "image", "mask", "malignancy", *names])]
    nodules = Nodules(30)
    for i in range(30):
        sample = nodules[i]
        sample.image.convert("L").save(tmp_path / f"{i}.png")
        Image.fromarray(sample.masks[0].astype(np.uint8) * 255).save(tmp_path / f"m{i}.png")
        values = [sample.about["malignancy"], *(sample.about["biomarkers"][n] for n in names.values())]
        rows.append(",".join([f"n{i}", f"{i}.png", f"m{i}.png", *map(str, values)]))
    (tmp_path / "nodules.csv").write_text("\n".join(rows))
    data = LIDC(tmp_path)
    parts = parts_of(data, 0, data[0])
    assert list(parts) == ["body", "edge", "background"]
    assert (sum(part.astype(int) for part in parts.values()) == 1).all()
    assert (parts["body"] <= data[0].masks[0]).all()
    line = ["train", "lidc", "-m", "scenes_vit", "-o", str(tmp_path / "out"), "--root", str(tmp_path), "--paper"]
    done = CliRunner().invoke(app, [*line, "--dropout", "0", "--epochs", "1", "--nodules", "2", "--device", "cpu"])
    assert done.exit_code == 0, done.output
    text = (tmp_path / "out/study.md").read_text()
    assert "shows in" not in text  # nobody knows where
    assert "| CDAM, margin |" in text


def test_an_interval_holds_the_mean() -> None:
    values = np.random.default_rng(0).normal(1, 2, 400)
    mean, low, high = interval(values)
    assert mean == values.mean()
    assert (mean - low, high - mean) == pytest.approx((1.96 * 2 / 20, 1.96 * 2 / 20), rel=0.1)
    assert all(np.isnan(interval(np.array([]))))
