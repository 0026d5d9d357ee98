"""The report of a run: one self-contained page, and the tables as CSV, LaTeX and Markdown beside it."""

from __future__ import annotations

from pathlib import Path

from seewhy.bench.report.run_data import RunData


def write_report(folder: str | Path, output: str | Path | None = None, seed: int = 0) -> Path:
    """Write a run's report.

    Beside the page lie `.csv` (long), `.wide.csv`, `.tex` and `.md` files of the same name.

    Args:
        folder: What `seewhy bench run` wrote; an unfinished run is reported as far as it is.
        output: The page; by default `report.html` in the run's folder.
        seed: Seed of the bootstrap.

    Returns:
        The page's path.

    Raises:
        DataError: When there is no run, it has no rows, or a file is broken.
        MissingExtraError: When DuckDB is not installed.
        SeewhyError: When the page cannot be written.
    """
    from seewhy.bench.report import exports, page
    from seewhy.bench.report.leaderboard import compute_leaderboard
    from seewhy.viz.html import render, write

    run = RunData(folder)
    scores = compute_leaderboard(run, seed=seed)
    path = Path(output) if output else run.folder / "report.html"
    title = f"Benchmark {run.folder.resolve().name}"
    write(render(title, page.sections(run, scores), page.intro(run), "report.html"), path)
    tables = {
        ".csv": exports.long_csv(run, scores),
        ".wide.csv": exports.wide_csv(run, scores),
        ".tex": exports.latex(run, scores),
        ".md": exports.markdown(run, scores),
    }
    for suffix, text in tables.items():
        write(text, path.with_suffix(suffix))
    return path


__all__ = ["RunData", "write_report"]
