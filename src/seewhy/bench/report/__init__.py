"""What a run found: one self-contained page, and the tables as CSV, LaTeX and Markdown beside it."""

from __future__ import annotations

from pathlib import Path

from seewhy.bench.report.run_data import Run


def report(folder: str | Path, output: str | Path | None = None, seed: int = 0) -> Path:
    """Write `report.html`, and beside it `report.csv` (long), `report.wide.csv`, `report.tex` and
    `report.md`.

    Args:
        folder: what `seewhy bench run` wrote; an unfinished run is reported as far as it is.
        output: the page; by default `report.html` in the run's folder.
        seed: of the bootstrap.

    Returns:
        The page's path.

    Raises:
        DataError: no run, no rows, or a broken file. MissingExtraError: DuckDB is not installed.
        SeewhyError: the page cannot be written.
    """
    from seewhy.bench.report import exports as files, page
    from seewhy.bench.report.leaderboard import board
    from seewhy.viz.html import render, write

    run = Run(folder)
    scores = board(run, seed=seed)
    path = Path(output) if output else run.folder / "report.html"
    title = f"Benchmark {run.folder.resolve().name}"
    write(render(title, page.parts(run, scores), page.intro(run), "report.html"), path)
    for suffix, text in (
        (".csv", files.long_csv(run, scores)),
        (".wide.csv", files.wide_csv(run, scores)),
        (".tex", files.latex(run, scores)),
        (".md", files.markdown(run, scores)),
    ):
        write(text, path.with_suffix(suffix))
    return path


__all__ = ["Run", "report"]
