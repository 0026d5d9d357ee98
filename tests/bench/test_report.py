"""The report of a made-up run, of which everything is known."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import synthetic
from PIL import Image

from seewhy.bench import stats
from seewhy.bench.report import RunData, exports, write_report
from seewhy.bench.report.exports import escape_latex, latex, long_csv, markdown, wide_csv
from seewhy.bench.report.galleries import disagreements, extremes, map_similarity
from seewhy.bench.report.gaps import find_gaps
from seewhy.bench.report.leaderboard import compute_leaderboard
from seewhy.bench.report.page import gallery_metric
from seewhy.bench.report.plots import distributions
from seewhy.bench.report.published import published_value
from seewhy.bench.report.summary import describe_failures, describe_leaders, format_number
from seewhy.errors import DataError
from seewhy.methods import METHODS
from seewhy.viz.outlines import outlined


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return synthetic.write(tmp_path_factory.mktemp("runs") / "a run [1]'s")


@pytest.fixture(scope="module")
def run(folder):
    return RunData(folder)


@pytest.fixture(scope="module")
def scores(run):
    return {(s.method, s.metric): s for s in compute_leaderboard(run)}


def test_the_numbers_are_those_of_a_literal_loop(run, scores):
    rows = run.query("SELECT entry, sample, method, value FROM scores WHERE metric = 'fidelity' AND value IS NOT NULL")
    values = {m: {e: v for e, _, method, v in rows if method == m} for m in synthetic.METHODS}
    for method, own in values.items():
        score = scores[method, "fidelity"]
        assert score.mean == pytest.approx(np.mean(list(own.values())))
        assert score.n == len(own)
        assert score.images == len({e.split("#")[0] for e in own})
    best = max(values, key=lambda m: np.mean(list(values[m].values())))
    assert scores[best, "fidelity"].leads
    common = set(values["occlusion"]) & set(values[best])
    gap = np.mean([values[best][e] - values["occlusion"][e] for e in common])
    assert scores["occlusion", "fidelity"].gap == pytest.approx(gap)


def test_verdicts_are_paired(scores):
    close, far = scores["grad_cam", "fidelity"], scores["occlusion", "fidelity"]
    assert close.level is True
    assert far.level is False
    assert far.p < 0.01
    # the shared difficulty of the images makes both intervals wide; unpaired, they would say nothing
    assert far.high - far.low > 0.4


def test_direction_decides_ranks_and_without_one_there_is_none(scores):
    mif = sorted((s for s in scores.values() if s.metric == "fidelity.mif"), key=lambda s: s.mean)
    assert [s.rank for s in mif] == [1, 2, 3]
    assert mif[2].gap > 0
    assert {scores[m, "compactness"].rank for m in synthetic.METHODS} == {None}
    assert not any(s.leads for s in scores.values() if s.metric == "compactness")


def test_a_row_written_twice_counts_once(folder, scores, tmp_path):
    twice = tmp_path / "twice"
    shutil.copytree(folder, twice)
    shutil.copy(twice / "rows" / "part.parquet", twice / "rows" / "again.parquet")
    again = {(s.method, s.metric): s for s in compute_leaderboard(RunData(twice))}
    assert again == scores


def test_a_report_is_the_same_at_every_call_also_where_scores_are_ties(tmp_path):
    tied = synthetic.write(tmp_path / "tied", n=9, per_image=1)
    table = pq.read_table(tied / "rows" / "part.parquet")
    rounded = [None if value is None else round(value, 0) for value in table["value"].to_pylist()]
    pq.write_table(table.set_column(9, "value", pa.array(rounded, pa.float64())), tied / "rows" / "part.parquet")
    reports = set()
    for _ in range(2):
        run = RunData(tied)
        (panel,), info = run.panels, run.metrics["fidelity"]
        blocks = [*extremes(run, panel, info), *disagreements(run, panel, info)]
        captions = tuple((block.title, figure.caption) for block in blocks for figure in block.figures)
        reports.add((captions, long_csv(run, compute_leaderboard(run, resamples=50)), str(map_similarity(run, panel))))
    assert len(reports) == 1


def test_few_images_get_no_verdict(tmp_path):
    run = RunData(synthetic.write(tmp_path / "few", n=6))
    scores = compute_leaderboard(run)
    assert {s.level for s in scores} == {None}
    assert "too few images" in describe_leaders(run, run.panels[0], scores)[0]


def test_words(run, scores):
    lines = describe_leaders(run, run.panels[0], list(scores.values()))
    assert len(lines) == 2  # not for compactness, which has no direction, nor for parts
    assert "Fidelity ↑: LaFAM leads" in lines[0]
    assert "not significantly worse: Grad-CAM" in lines[0]
    failed = " ".join(describe_failures(run))
    assert "8 of 960 scores have no value" in failed
    assert "8 × the map holds NaN (Occlusion <b>, e.g. <script>alert(1))" in failed
    assert "CDAM was not run on toy: needs tokens." in failed


@pytest.mark.parametrize("n", [1, 2])
def test_one_or_two_images_make_a_report_without_intervals(tmp_path, n):
    folder = synthetic.write(tmp_path / "few", n=n, per_image=1)
    scores = compute_leaderboard(RunData(folder))
    assert {(s.low, s.high) for s in scores} == {(None, None)}
    assert all(s.mean is not None for s in scores if s.n)
    page = write_report(folder).read_text("utf-8")
    assert "±" not in page.replace("Mean ± half-width", "")
    assert "± " not in (folder / "report.md").read_text("utf-8").replace("Mean ± half-width", "")
    assert "nan" not in (folder / "report.csv").read_text("utf-8")


def test_from_six_images_on_there_are_intervals(tmp_path):
    fewest = stats.FEWEST_FOR_INTERVAL
    assert 1 - 2 * 0.5**fewest >= stats.LEVEL > 1 - 2 * 0.5 ** (fewest - 1)
    for n in (fewest, fewest - 1):
        scores = compute_leaderboard(RunData(synthetic.write(tmp_path / f"{n}", n=n)))
        (score,) = (s for s in scores if (s.method, s.metric) == ("lafam", "fidelity"))
        assert (score.low is not None) == (n == fewest)


def test_methods_that_cannot_serve_a_model_are_rows_with_a_reason_or_one_sentence(folder, tmp_path):
    gone = tmp_path / "gaps"
    shutil.copytree(folder, gone)
    manifest = json.loads((gone / "manifest.json").read_text())
    manifest["skipped"] += [
        {"model": "toy", "method": m, "reason": f"{m} needs x; do y", "named": False} for m in METHODS
    ]
    (gone / "manifest.json").write_text(json.dumps(manifest))
    plan = synthetic.PLAN + "[published.toy.cdam]\npointing_game = 0.25\n[published.toy.new_idea]\nfidelity = 7.5\n"
    (gone / "plan.toml").write_text(plan)
    run = RunData(gone)
    assert [(gap.method, gap.title, gap.reason) for gap in find_gaps(run, run.panels[0])] == [
        ("cdam", "CDAM", "needs tokens"),
        ("new_idea", "new_idea", "the paper's own, not part of this run"),
    ]
    last = describe_failures(run)[-1]
    assert last.startswith(f"{len(METHODS)} further methods cannot serve toy: ")
    assert last.endswith(f"{list(METHODS.values())[-1].card.title}.")
    tables = markdown(run, compute_leaderboard(run, resamples=10))
    assert "| CDAM | – | – | – |" in tables
    assert "CDAM: needs tokens." in tables
    page = write_report(gone).read_text("utf-8")
    assert page.count("paper 0.25") == page.count("paper 7.5") == 1


def test_a_part_that_repeats_another_metric_is_no_second_column(folder, tmp_path):
    twice = tmp_path / "twice"
    shutil.copytree(folder, twice)
    rows = pq.read_table(twice / "rows" / "part.parquet").to_pylist()
    rows += [{**row, "metric": "contrast.own"} for row in rows if row["metric"] == "fidelity"]
    rows += [{**row, "metric": "contrast.other"} for row in rows if row["metric"] == "compactness"]
    rows += [{**row, "metric": "contrast", "value": i} for i, row in enumerate(rows[:9])]
    pq.write_table(pa.Table.from_pylist(rows), twice / "rows" / "part.parquet")
    manifest = json.loads((twice / "manifest.json").read_text())
    manifest["metrics"][0]["unit"] = "score · %"
    manifest["metrics"].append({"label": "contrast", "parts": {"own": True, "other": None}, "title": "Contrast"})
    (twice / "manifest.json").write_text(json.dumps(manifest))
    metrics = RunData(twice).metrics
    assert list(metrics) == ["fidelity", "fidelity.mif", "pointing_game", "compactness", "contrast"]
    assert [metrics[name].heading for name in ("fidelity", "fidelity.mif", "contrast")] == [
        "Fidelity [score · %] ↑",
        "Fidelity: mif [score · %] ↓",
        "Contrast",
    ]


def test_published_figures(run, scores):
    assert published_value(run, "toy", "grad_cam", "pointing_game") == 0.9
    assert published_value(run, "toy", "lafam", "pointing_game") is None
    run.plan["published"]["percent"] = True
    assert published_value(run, "toy", "grad_cam", "pointing_game") == pytest.approx(0.009)
    del run.plan["published"]["percent"]


def test_the_page_is_self_contained_and_escape_latex(folder, tmp_path):
    path = write_report(folder, tmp_path / "out" / "page.html")
    html = path.read_text("utf-8")
    assert "<script" not in html
    assert "&lt;script&gt;alert(1)" in html
    assert "Occlusion &lt;b&gt;" in html
    assert "Occlusion <b>" not in html
    assert "http://" not in html.replace("http://www.w3.org", "")
    assert "https://" not in html
    for heading in ("Summary", "Tables", "Curves", "Distributions", "Best, median, worst", "Cost", "Protocol"):
        assert heading in html
    assert "paper 0.9" in html
    assert html.count("data:image/jpeg;base64,") >= 9
    assert "A &amp; B, eq. 1" in html
    assert html.count("★") >= 4  # three metrics and the legend
    assert {p.name for p in path.parent.iterdir()} == {"page.html", "page.csv", "page.wide.csv", "page.tex", "page.md"}


def test_csv_long_and_wide_say_the_same(run, scores, folder, tmp_path):
    write_report(folder, tmp_path / "r.html")
    rows = list(csv.DictReader((tmp_path / "r.csv").open()))
    assert len(rows) == 12
    wide = {row["method"]: row for row in csv.DictReader(wide_csv(run, list(scores.values())).splitlines())}
    for row in rows:
        assert float(row["mean"]) == float(wide[row["method"]][row["metric"]])
    assert next(r for r in rows if r["published"])["published"] == "0.9"


def test_latex_compiles_in_the_mind(run, scores):
    text = latex(run, list(scores.values()))
    assert text.count(r"\begin{tabular}{lrrr}") == 1, "parts of metrics are in the page and the CSV"
    first = next(m.label for m in run.metrics.values() if not m.is_part)
    best = sorted((s for s in scores.values() if s.metric == first), key=lambda s: -s.mean)
    places = [text.index(f"\n{run.methods[s.method].title.split(' ')[0]}") for s in best]
    assert places == sorted(places), "best by the first metric first"
    assert r"\resizebox{\ifdim\width>\linewidth" in text
    assert r"Occlusion \textless{}b\textgreater{}" in text
    assert text.count(r"\mathbf{") == 2
    assert r"\underline{" in text
    assert escape_latex("a_b & 5% {x} \\") == r"a\_b \& 5\% \{x\} \textbackslash{}"


def test_text_that_a_spreadsheet_would_compute_is_text_and_numbers_are_numbers():
    written = exports._csv([["=1+1", "@x", "-2", "model"], [-2.5, None, 3, "a=b"]])
    assert written == "'=1+1,'@x,'-2,model\n-2.5,,3,a=b\n"


def test_a_table_says_what_stands_in_it_and_whether_the_run_has_ended(run, scores):
    whole = markdown(run, list(scores.values()))
    assert "± half-width of the 95 %" in whole
    assert "not ended" not in whole
    run.manifest["finished"] = None
    few = [replace(score, low=None, high=None, level=None) for score in scores.values()]
    part = markdown(run, few)
    assert "Means; bold: best. The run has not ended: this is what it has so far." in part
    assert "The run has not ended" in latex(run, few)


def test_markdown_is_a_table_with_the_best_on_top(run, scores):
    lines = [line for line in markdown(run, list(scores.values())).splitlines() if line.startswith("|")]
    assert {line.count("|") for line in lines} == {len([m for m in run.metrics.values() if not m.is_part]) + 2}
    assert lines[1].startswith("| --- | --:")
    first = next(m.label for m in run.metrics.values() if not m.is_part)
    best, *rest = sorted((s for s in scores.values() if s.metric == first), key=lambda s: -s.mean)
    titles = {"grad_cam": "Grad-CAM", "lafam": "LaFAM", "occlusion": "Occlusion &lt;b>"}
    assert [line.split(" | ")[0] for line in lines[2:]] == [f"| {titles[s.method]}" for s in (best, *rest)] + ["| CDAM"]
    assert lines[2].split(" | ")[1] == f"**{best.mean:.4g}** ± {(best.high - best.low) / 2:.2g}"


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [
        (173.2, 2, "170"),
        (1076.4, 4, "1076"),
        (12345.6, 4, "12350"),
        (0.00123, 2, "0.0012"),
        (-951.4, 2, "-950"),
        (0.0, 4, "0"),
        (3.2e7, 3, "3.2e+07"),
        (1e-7, 3, "1e-07"),
        (float("inf"), 3, "inf"),
    ],
)
def test_numbers_are_written_as_people_do(value, digits, text):
    assert format_number(value, digits) == text


def test_a_method_without_a_score_on_a_model_has_no_row_there(run, scores):
    from seewhy.bench.report.page import _panel_tables

    told = [s for s in scores.values() if s.method != "occlusion"]
    assert {len(block.rows) for block in _panel_tables(run, run.panels[0], told)} == {3}  # and the gap, CDAM
    assert {len(block.rows) for block in _panel_tables(run, run.panels[0], list(scores.values()))} == {4}


def test_a_yes_or_no_score_has_no_distribution(run):
    shown = {name: distributions(run, run.panels[0], run.metrics[name]) for name in ("pointing_game", "compactness")}
    assert shown["pointing_game"] is None  # 0 or 1 in the made-up run
    assert len(shown["compactness"].rows) == 4  # three methods and the ruler


def test_galleries_show_what_they_say(run):
    info, panel = run.metrics["fidelity"], run.panels[0]
    blocks = extremes(run, panel, info)
    assert [block.title for block in blocks] == ["Grad-CAM", "LaFAM", "Occlusion <b>"]
    ((top,),) = run.query("SELECT max(value) FROM scores WHERE metric = 'fidelity' AND method = 'lafam'")
    assert blocks[1].figures[0].caption.startswith(f"best: {top:.3g} · ")
    ((target, sample),) = run.query(
        "SELECT target, sample FROM scores WHERE metric = 'fidelity' AND method = 'lafam' AND value = ?", top
    )
    assert blocks[1].figures[0].caption.endswith(f" · {target} · {sample}")  # which of two objects it is for
    widest = disagreements(run, panel, info)
    assert len(widest) == 6
    assert len({block.title for block in widest}) == 6  # one of an image
    first, second = (float(f.caption.rsplit(": ", 1)[1]) for f in widest[0].figures)
    assert first > second


def test_maps_are_alike_to_themselves(run):
    table = map_similarity(run, run.panels[0])
    for i, row in enumerate(table.rows):
        assert row[i + 1].text == "1.00"


def test_the_outline_is_the_edge_of_the_mask():
    mask = np.zeros((60, 60), bool)
    mask[20:40, 20:40] = True
    pixels = np.asarray(outlined(Image.new("RGB", (60, 60), (128, 128, 128)), mask))
    assert (pixels[30, 18:21] == 255).any()
    assert (pixels[30, 30] == 128).all()
    assert (pixels[5, 5] == 128).all()
    mask[:, 40:] = mask[20:40, :20] = True  # a line where the image ends, and not at its other side
    pixels = np.asarray(outlined(Image.new("RGB", (60, 60), (128, 128, 128)), mask))
    assert (pixels[10, -1] == 255).all()
    assert (pixels[10, 0] == 128).all()


def test_what_is_no_run_says_so(tmp_path):
    with pytest.raises(DataError, match=r"no plan.toml.*bench run"):
        RunData(tmp_path)
    (tmp_path / "plan.toml").write_text(synthetic.PLAN)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(DataError, match=r"cannot read .*manifest.json"):
        RunData(tmp_path)
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(DataError, match="no rows yet"):
        RunData(tmp_path)
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "x.parquet").write_bytes(b"no parquet")
    with pytest.raises(DataError, match=r"are broken \(x.parquet\); run .*bench resume"):
        RunData(tmp_path)


def test_a_broken_map_is_told_too(tmp_path):
    folder = synthetic.write(tmp_path / "run", n=3)
    (folder / "maps" / "part.parquet").write_bytes(b"")
    with pytest.raises(DataError, match=r"cannot read .*bench resume"):
        write_report(folder)


def with_reference_maps(folder, *names):
    """The run, with some of its methods as reference maps."""
    manifest = json.loads((folder / "manifest.json").read_text())
    for about in manifest["methods"]:
        about["family"] = "baseline" if about["label"] in names else "cam"
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return RunData(folder)


def test_a_reference_map_is_compared_and_never_leads(tmp_path):
    run = with_reference_maps(synthetic.write(tmp_path / "a"), "lafam")
    found = compute_leaderboard(run)
    scores = {(s.method, s.metric): s for s in found}
    base, best = scores["lafam", "fidelity"], scores["grad_cam", "fidelity"]
    assert base.mean > best.mean  # as a method it would lead (test_words)
    assert (best.rank, best.leads, scores["occlusion", "fidelity"].rank) == (1, True, 2)
    assert (base.rank, base.leads) == (None, False)
    assert base.gap < 0
    line = describe_leaders(run, run.panels[0], found)[0]
    assert line.startswith("Fidelity ↑: Grad-CAM leads")
    assert f"But the reference map LaFAM ({base.mean:.4g}), which does not use the model, does no worse" in line
    assert "LaFAM" not in " ".join(
        f.caption for b in disagreements(run, run.panels[0], run.metrics["fidelity"]) for f in b.figures
    )
    row = next(
        r
        for r in csv.DictReader(long_csv(run, found).splitlines())
        if (r["method"], r["metric"]) == ("lafam", "fidelity")
    )
    assert (row["rank"], row["leads"], row["not_significantly_worse"]) == ("", "False", "True")
    assert "reference, n 80" in write_report(run.folder).read_text("utf-8")
    worse = with_reference_maps(run.folder, "occlusion")
    line = describe_leaders(worse, worse.panels[0], compute_leaderboard(worse))[0]
    assert "But" not in line


def test_a_reference_map_far_ahead_is_not_called_significantly_worse(tmp_path):
    run = with_reference_maps(synthetic.write(tmp_path / "a"), "grad_cam", "lafam")
    found = compute_leaderboard(run)
    line = describe_leaders(run, run.panels[0], found)[0]
    assert "Occlusion <b> leads" in line
    assert "significantly worse: the reference map" in line
    assert "all others are significantly worse" not in line
    assert "the reference map Grad-CAM" in line
    assert "which do not use the model, do no worse" in line


def test_equal_methods_share_the_lead(run, scores):
    first = scores["grad_cam", "fidelity"]
    second = replace(scores["lafam", "fidelity"], mean=first.mean, rank=1, leads=False, gap=0.0)
    equal = [replace(first, rank=1), second, replace(scores["occlusion", "fidelity"], rank=3)]
    assert describe_leaders(run, run.panels[0], equal)[0].startswith(
        "Fidelity ↑: Grad-CAM and LaFAM share the lead with"
    )


def test_galleries_go_by_a_metric_that_tells_maps_apart(run, tmp_path):
    assert gallery_metric(run).label == "fidelity"
    path = tmp_path / "b"
    shutil.copytree(run.folder, path)
    manifest = json.loads((path / "manifest.json").read_text())
    by = {m["label"]: m for m in manifest["metrics"]}
    by["compactness"]["higher_is_better"] = True
    for order, want in (
        (["pointing_game", "compactness", "fidelity"], "fidelity"),  # one has two values only
        (["pointing_game", "compactness"], "pointing_game"),
    ):
        manifest["metrics"] = [by[label] for label in order]
        (path / "manifest.json").write_text(json.dumps(manifest))
        assert gallery_metric(RunData(path)).label == want


def test_command_line(folder, tmp_path):
    from typer.testing import CliRunner

    from seewhy.cli.bench import app

    found = CliRunner().invoke(app, ["report", str(folder), "-o", str(tmp_path / "x.html")])
    assert found.exit_code == 0, found.output
    assert (tmp_path / "x.html").is_file()
