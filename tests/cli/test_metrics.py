"""`seewhy metrics`: a table of the cards."""

from __future__ import annotations

import json
import sys

import pytest

from seewhy.cli import main
from seewhy.metrics import METRICS


@pytest.fixture
def said(monkeypatch, capsys):
    def said(*words):
        monkeypatch.setattr(sys, "argv", ["seewhy", "metrics", *words])
        monkeypatch.setenv("COLUMNS", "200")
        with pytest.raises(SystemExit):
            main()
        return capsys.readouterr().out

    return said


def test_every_metric_is_listed_with_what_its_card_says(said):
    rows = {row["name"]: row for row in json.loads(said("--json"))}
    assert set(rows) == {cls.card.name for cls in METRICS.values()}
    assert rows["diagnosis"]["needs"] == ["label", "mask", "model"]
    assert rows["arcc"]["passes"] == 9
    assert rows["randomization"]["higher_is_better"] is False
    assert rows["randomization"]["options"]["n_steps"]["default"] == 7


def test_the_table_can_be_narrowed_and_says_which_way_is_good(said):
    out = said("r*")
    assert "randomization" in out
    assert "lower" in out
    assert "diagnosis" not in out
