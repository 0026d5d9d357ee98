"""Two runs, map by map."""

from __future__ import annotations

import json

import numpy as np
import pytest
import synthetic
from typer.testing import CliRunner

from seewhy.bench.diff import compare_runs, format_comparison
from seewhy.bench.report import RunData
from seewhy.cli.bench import app


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    place = tmp_path_factory.mktemp("runs")
    return synthetic.write(place / "a"), synthetic.write(place / "b", shift=0.2)


def test_a_run_has_not_changed_from_itself(runs):
    found = compare_runs(runs[0], runs[0])
    assert (found.protocol, found.environment, found.only) == ([], [], [])
    assert len(found.changes) == 12
    assert not any(c.significant or c.difference or c.better is not None for c in found.changes)


def test_a_former_word_for_a_target_is_no_other_protocol(tmp_path):
    folders = [synthetic.write(tmp_path / name) for name in ("former", "now")]
    for folder, target in zip(folders, ("label", "truth"), strict=True):
        manifest = json.loads((folder / "manifest.json").read_text())
        manifest["protocol"] = {**(manifest.get("protocol") or {}), "target": target}
        (folder / "manifest.json").write_text(json.dumps(manifest))
    assert compare_runs(*folders).protocol == []


def test_changes_are_those_of_a_literal_loop_and_know_the_direction(runs):
    found = {(c.method, c.metric): c for c in compare_runs(*runs).changes}
    sql = "SELECT entry, value FROM scores WHERE method = 'lafam' AND metric = 'pointing_game'"
    before, after = (dict(RunData(folder).query(sql)) for folder in runs)
    assert found["lafam", "pointing_game"].difference == pytest.approx(np.mean([after[e] - before[e] for e in before]))
    for metric, sign in (("fidelity", 1), ("fidelity.mif", -1)):
        change = found["grad_cam", metric]
        assert change.difference == pytest.approx(sign * 0.2)
        assert change.better
        assert change.significant
    assert found["grad_cam", "compactness"].better is None


def test_significant_ones_come_first(runs):
    marks = [c.significant for c in compare_runs(*runs).changes]
    assert marks == sorted(marks, reverse=True)
    assert 0 < sum(marks) < len(marks)


def test_another_protocol_is_said_first(runs, tmp_path):
    other = synthetic.write(tmp_path / "c", methods={"grad_cam": "Grad-CAM"})
    manifest = json.loads((other / "manifest.json").read_text())
    manifest["metrics"][0]["options"]["n_steps"] = 9
    manifest["versions"]["torch"] = "3"
    (other / "manifest.json").write_text(json.dumps(manifest))
    found = compare_runs(runs[0], other)
    assert ("metrics.fidelity.options.n_steps", 4, 9) in found.protocol
    assert found.environment == [("versions.torch", "2.13", "3")]
    assert ("toy · scenes · multi · lafam · fidelity", "first") in found.only
    assert {c.method for c in found.changes} == {"grad_cam"}
    assert next(iter(format_comparison(found))).startswith("DIFFERENT PROTOCOLS")


def test_few_images_give_no_verdict(tmp_path):
    few = [synthetic.write(tmp_path / name, n=5, shift=shift) for name, shift in (("a", 0), ("b", 0.2))]
    found = list(format_comparison(compare_runs(*few)))
    assert found[1] == "No verdicts: fewer than 10 images are common to both runs."
    assert not any("e-1" in line for line in found)


def test_command_line(runs):
    plain = CliRunner().invoke(app, ["diff", *map(str, runs)])
    assert plain.exit_code == 0, plain.output
    assert "The protocols are the same" in plain.output
    told = json.loads(CliRunner().invoke(app, ["diff", *map(str, runs), "--json"]).output)
    assert told["changes"][0]["significant"] is True
