"""The table of which methods tell objects apart."""

from __future__ import annotations

import json

import pytest
import torch

import seewhy
from seewhy.bench import scenes as board
from seewhy.data.scenes import Scenes


def test_score_says_where_the_maximum_and_the_mass_lie():
    masks = torch.zeros(2, 4, 4, dtype=torch.bool)
    masks[0, :2, :2] = True
    masks[1, 2:, 2:] = True
    map = torch.tensor([[3.0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0], [0, -9, 0, 0]])
    assert board.score(map, masks, 0) == (1, 0, 0.75, 0.25)
    assert board.score(map, masks, 1) == (0, 1, 0.25, 0.75)
    assert board.score(torch.ones(4, 4), masks, 0) == (0, 0, 0, 0)


def test_the_rows_are_the_literal_shares():
    model = seewhy.load_model("scenes_vit", device="cpu")
    (best, other) = (r for r in board.table(model, 3, ["cdam"]))
    scenes, hits = Scenes("multi"), []
    for i in range(3):
        scene = scenes[i]
        for k, label in enumerate(scene.labels):
            explanation = seewhy.explain(model, scene.image, "cdam", int(label))
            row, col = divmod(int(explanation.resized((96, 96)).argmax()), 96)
            hits.append(bool(scene.masks[k, row, col]))
    cdam = best if best.method == "cdam" else other
    assert (cdam.maps, cdam.right) == (len(hits), pytest.approx(sum(hits) / len(hits)))
    assert {best.method, other.method} == {"cdam", "random"}


def test_a_concept_method_gets_examples_and_a_failing_one_a_reason():
    model = seewhy.load_model("scenes_vit", device="cpu")
    rows = {row.method: row for row in board.table(model, 1, ["concept_cdam", "lrp"])}
    assert rows["concept_cdam"].maps == len(Scenes("multi")[0].labels)
    assert "cannot serve" in rows["lrp"].error
    assert "cannot serve" in board.markdown(list(rows.values()))


def test_a_broken_promise_is_told():
    def row(title, right, wrong, class_specific=True):
        return board.Row("m", title, title, class_specific, 100, right, wrong, 0.2, 0.2, 0.05, 1)

    text = board.markdown([row("good", 0.8, 0.1), row("close", 0.45, 0.4), row("free", 0.3, 0.5, False)])
    assert text.endswith("not discriminative here: close.")
    assert [line.rsplit("|", 2)[1].strip() for line in text.splitlines()[2:5]] == ["yes", "no", "no (label-free)"]
    assert "not discriminative" not in board.markdown([row("good", 0.8, 0.1)])


def test_the_command_writes_the_page(monkeypatch, tmp_path, capsys):
    from seewhy.cli import main

    page = tmp_path / "docs" / "scenes.md"
    monkeypatch.setattr(
        "sys.argv",
        ["seewhy", "bench", "scenes", "--n", "1", "-m", "scenes_cnn", "-M", "grad_cam", "-o", str(page), "--json"],
    )
    with pytest.raises(SystemExit) as stop:
        main()
    assert not stop.value.code
    assert [row["method"] for row in json.loads(capsys.readouterr().out)["scenes_cnn"]].count("grad_cam") == 1
    assert "| Grad-CAM |" in page.read_text()
