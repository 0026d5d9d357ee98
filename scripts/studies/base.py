"""What the studies share: where things lie, plans that are run once, tables and figures of what came out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from PIL import Image

from seewhy.bench.execute import run as runner
from seewhy.bench.plan import Plan
from seewhy.bench.report.leaderboard import Score, compute_leaderboard, scores_of
from seewhy.bench.report.run_data import RunData
from seewhy.bench.toml import dump_toml
from seewhy.errors import DataError

Scores = dict[str, dict[tuple[str, str], Score]]
"""By model, then by method and metric."""


@dataclass(frozen=True)
class Setting:
    """Where a study finds and leaves things, and how large it is.

    Attributes:
        out: Folder of the pages and their figures.
        work: Folder of the runs; one that is there is finished, not begun anew.
        quick: Whether a few images do, to see that everything works.
        cutouts: A folder with images/, masks/ and labels.csv; None: studies leave that part out.
        vit: A checkpoint of a DINOv2 ViT-S/14; None: likewise.
    """

    out: Path
    work: Path
    quick: bool = False
    cutouts: Path | None = None
    vit: Path | None = None

    def n(self, full: int, quick: int = 4) -> int:
        """Return how many images are looked at."""
        return quick if self.quick else full


@dataclass
class Page:
    """A page of the docs.

    Attributes:
        question: Its title.
        answer: The answer in a sentence with figures.
        parts: Markdown, paragraph by paragraph.
    """

    question: str
    answer: str = ""
    parts: list[str] = field(default_factory=list)

    def add(self, *paragraphs: str) -> None:
        """Add paragraphs."""
        self.parts += paragraphs

    def text(self, command: str) -> str:
        """Return the page as Markdown."""
        made = f"Made by `{command}`. ± is half the width of the 95 % bootstrap interval over images."
        return "\n\n".join([f"# {self.question}", f"**{self.answer}**", made, *self.parts]) + "\n"


@dataclass(frozen=True)
class Study:
    """One question.

    Attributes:
        name: Its name on the command line, and that of its page.
        make: Runs what is needed and returns the page.
    """

    name: str
    make: Callable[[Setting], Page]


def scored(setting: Setting, name: str, plan: Mapping[str, Any]) -> Scores:
    """Run a plan, or finish it, and return its scores.

    Args:
        setting: Where runs lie.
        name: Name of the run.
        plan: The plan, as its TOML file would have it.
    """
    folder = setting.work / (f"{name}_quick" if setting.quick else name)
    text = dump_toml(dict(plan))
    if (folder / "plan.toml").is_file():
        if (folder / "plan.toml").read_text("utf-8") != text:
            raise DataError(f"{folder} is a run of another plan; remove it, or give --work another folder")
        runner.resume(folder)
    else:
        runner.run(Plan.parse(text, name), folder)
    return scores_in(folder)


def scores_in(folder: Path) -> Scores:
    """Return the scores of a run by model."""
    run = RunData(folder)
    scores = compute_leaderboard(run)
    return {panel.model: scores_of(panel, scores) for panel in run.panels}


def cell(score: Score | None, digits: int = 3) -> str:
    """Return a mean with half the width of its interval."""
    if score is None or score.mean is None:
        return "–"
    width = "" if score.half_width is None else f" ± {score.half_width:.{digits}f}"
    return f"{score.mean:.{digits}f}{width}"


def mean(scores: Mapping[tuple[str, str], Score], method: str, metric: str) -> float:
    """Return a mean; NaN where there is none."""
    score = scores.get((method, metric))
    return float("nan") if score is None or score.mean is None else score.mean


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table, numbers to the right."""
    lines = [f"| {' | '.join(head)} |", "|---" + "|--:" * (len(head) - 1) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def save_figure(setting: Setting, name: str, figure: Figure, says: str) -> str:
    """Save a figure beside the pages; return the Markdown that shows it."""
    setting.out.mkdir(parents=True, exist_ok=True)
    figure.savefig(setting.out / f"{name}.png", dpi=110, bbox_inches="tight")
    return f"![{says}]({name}.png)"


def save_image(setting: Setting, name: str, image: Image.Image, says: str) -> str:
    """Save an image beside the pages; return the Markdown that shows it."""
    setting.out.mkdir(parents=True, exist_ok=True)
    image.convert("RGB").save(setting.out / f"{name}.jpg", quality=88, subsampling=0)
    return f"![{says}]({name}.jpg)"
