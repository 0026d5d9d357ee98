"""`seewhy data`: every registered dataset is listed, items are drawn, broken ones are named."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from seewhy.cli import app
from seewhy.data import DATASETS

run = CliRunner().invoke


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four images of two classes, of different sizes, one of them cut off."""
    for i in range(4):
        path = tmp_path / "data" / "images" / ("cat" if i % 2 else "dog") / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((40 + 10 * i, 60, 3), 50 * i, np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:40])
    return tmp_path / "data"


def test_the_list_is_the_registry() -> None:
    shown = json.loads(run(app, ["data", "list", "--json"]).stdout)
    assert [card["name"] for card in shown] == DATASETS.names()
    assert all(card["source"] and card["splits"] for card in shown)
    text = run(app, ["data", "list"], env={"COLUMNS": "200"}).stdout
    assert all(name in text for name in DATASETS.names())


def test_scenes_are_drawn_by_name(tmp_path: Path) -> None:
    out = tmp_path / "sub" / "sheet.png"
    result = run(app, ["data", "show", "scenes", "--split", "multi", "--n", "3", "--side", "96", "-o", str(out)])
    assert result.exit_code == 0, result.output
    assert Image.open(out).size == (3 * (96 + 8) + 8, 96 + 4 * 15 + 8 + 8)


def test_broken_files_are_named_and_counted(folder: Path) -> None:
    result = run(app, ["data", "check", "folder", "--root", str(folder), "--json"])
    assert result.exit_code == 9
    result = json.loads(result.stdout)
    assert (result["samples"], result["labels"], result["classes"], len(result["broken"])) == (4, 3, 2, 1)
    assert "3" in next(iter(result["broken"]))


def test_a_folder_of_another_layout_says_what_was_expected(tmp_path: Path) -> None:
    from seewhy.errors import DataError

    result = run(app, ["data", "check", "voc", "--root", str(tmp_path)])
    assert isinstance(result.exception, DataError)
    assert "JPEGImages" in str(result.exception)
