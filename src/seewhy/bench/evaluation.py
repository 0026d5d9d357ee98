"""A benchmark from Python: models and data as they are, the engine and the folder of a plan."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from tempfile import mkdtemp
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeAlias

from torch import nn

from seewhy.bench.execute import run as runner
from seewhy.bench.plan import Plan
from seewhy.bench.progress import Bars
from seewhy.bench.report import write_report
from seewhy.bench.report.exports import markdown
from seewhy.bench.report.infos import Panel
from seewhy.bench.report.leaderboard import Score, compute_leaderboard, methods_with_scores, scores_of
from seewhy.bench.report.run_data import RunData
from seewhy.bench.setup import Given
from seewhy.bench.store import PLAN, Store
from seewhy.bench.toml import dump_toml
from seewhy.data import Dataset
from seewhy.errors import MissingExtraError, OptionError
from seewhy.models.adapter import VisionModel
from seewhy.models.infer.wrapping import wrap

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ModelSpec: TypeAlias = str | Path | VisionModel | nn.Module
"""A name of `load_model`, a path, a model, or a module, which is wrapped."""

Entry: TypeAlias = str | Mapping[str, Any]
"""A name, or `{"name": "rise", "n_masks": 500}`: a name with options."""

SCORES_SQL = "SELECT * FROM rows WHERE method <> '' AND metric <> '' ORDER BY model, method, metric, entry"


def evaluate(
    models: ModelSpec | Sequence[ModelSpec] | Mapping[str, ModelSpec],
    methods: Entry | Sequence[Entry] = "all",
    data: str | Mapping[str, Any] | Dataset = "scenes",
    metrics: Entry | Sequence[Entry] = ("pointing_game", "relevance_mass_accuracy", "auc"),
    *,
    folder: str | Path | None = None,
    n: int | None = None,
    seed: int = 0,
    reference_maps: Sequence[str] = ("random", "center"),
    progress: bool = True,
    **protocol: Any,
) -> Evaluation:
    """Score every method by every metric on every sample, for every model.

    Args:
        models: One or several; a mapping gives them labels.
        methods: Names, or tables of a name and options; "all": every method that can serve a model.
        data: Name of a dataset, a table of its name and options (`{"name": "folder", "root": "images"}`), or a dataset.
        metrics: As the methods.
        folder: Where the run is kept; a run of the same plan that is there goes on. None: a temporary folder.
        n: Number of samples, drawn with the seed; None: all.
        seed: Seed of everything that is drawn.
        reference_maps: Maps that do not use the model, for comparison.
        progress: Whether progress is shown on standard error.
        **protocol: Of the plan's `[protocol]`: `batch_size`, `target`, `upsampling`, `normalize`, `keep_maps` …

    Returns:
        The finished run.

    Raises:
        OptionError: When something cannot work together, or the folder holds a run of another plan.
        UnknownNameError: When there is no model, method, metric or dataset of a name.
        RequirementError: When no method serves one of the models.
        MissingExtraError: When the extra `bench` is not installed.
    """
    entries, given = _given(models, data)
    table: dict[str, Any] = {"name": data.card.name, "split": data.split} if isinstance(data, Dataset) else _table(data)
    if n is not None:
        table["n"] = n
    text = dump_toml(
        {
            "seed": seed,
            "models": entries,
            "methods": _entries(methods),
            "metrics": _entries(metrics),
            "reference_maps": list(reference_maps),
            "data": table,
            "protocol": protocol,
        }
    )
    plan = Plan.parse(text, "evaluate")
    place = Path(mkdtemp(prefix="seewhy-") if folder is None else folder)
    with Bars(progress) as shown:
        if (place / PLAN).is_file():
            runner.resume(place, plan, shown, given=given)
        else:
            runner.run(plan, place, shown, given=given)
    return Evaluation(place)


@dataclass(frozen=True)
class Evaluation:
    """A run, and what came out.

    Attributes:
        folder: The folder, as `seewhy bench run` leaves one.
    """

    folder: Path

    @cached_property
    def plan(self) -> Plan:
        """The plan; its `text` is what `seewhy bench run` would take."""
        return Plan.parse(Store.open(self.folder).plan_text)

    @cached_property
    def scores(self) -> list[Score]:
        """Means with intervals, ranks and verdicts, of each model, method and metric."""
        return compute_leaderboard(self._run)

    @cached_property
    def _run(self) -> RunData:
        return RunData(self.folder)

    def to_arrow(self) -> Any:
        """Return the score of each map, a row each, as a `pyarrow.Table`."""
        return Store.open(self.folder).table(SCORES_SQL)

    def to_pandas(self) -> Any:
        """Return the score of each map, a row each, as a `pandas.DataFrame`.

        Raises:
            MissingExtraError: When pandas is not installed.
        """
        _library("pandas")
        return self.to_arrow().to_pandas()

    def to_polars(self) -> Any:
        """Return the score of each map, a row each, as a `polars.DataFrame`.

        Raises:
            MissingExtraError: When polars is not installed.
        """
        return _library("polars").from_arrow(self.to_arrow())

    def summary(self) -> list[dict[str, Any]]:
        """Return a row for each model, method and metric: mean, interval, rank, and whether it is level with the best.

        A `pandas.DataFrame` takes it as it is.
        """
        return [{"model": s.panel.model, **{k: v for k, v in asdict(s).items() if k != "panel"}} for s in self.scores]

    def plot(self, metric: str | None = None, ax: Axes | None = None) -> Axes:
        """Draw each method's mean and 95 % interval by a metric, best first.

        Args:
            metric: Label of the metric; None: the plan's first.
            ax: Where to draw; None: a figure of its own.

        Returns:
            The axes.

        Raises:
            OptionError: When the run has no such metric.
        """
        label = metric or self.plan.metrics[0].label
        if label not in self._run.metrics:
            raise OptionError(f"the run has no metric {label!r}; it has {', '.join(self._run.metrics)}")
        if ax is None:
            from matplotlib.figure import Figure

            methods = max(1, len(self._run.methods))
            ax = Figure(figsize=(5.5, 0.8 + 0.24 * methods), layout="constrained").subplots()
        for k, panel in enumerate(self._run.panels):
            self._draw(ax, panel, label, k)
        if len(self._run.panels) > 1:
            ax.legend(frameon=False)
        ax.set_xlabel(self._run.metrics[label].heading)
        ax.spines[["top", "right"]].set_visible(False)
        return ax

    def _draw(self, ax: Axes, panel: Panel, label: str, k: int) -> None:
        """Draw the points of one model, a little below those of the one before."""
        scores = scores_of(panel, self.scores)
        order = methods_with_scores(self._run, scores_of(self._run.panels[0], self.scores), label)
        shown = [(row, scores[method, label]) for row, method in enumerate(order) if (method, label) in scores]
        points = [(row + 0.2 * k, s) for row, s in shown if s.mean is not None]
        ends = [[(s.mean or 0) - (s.low if s.low is not None else s.mean or 0) for _, s in points]]
        ends.append([(s.high if s.high is not None else s.mean or 0) - (s.mean or 0) for _, s in points])
        color = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")[k % 4]
        rows, means = [row for row, _ in points], [s.mean or 0.0 for _, s in points]
        ax.errorbar(means, rows, xerr=ends, fmt="osD^"[k % 4], color=color, capsize=2, label=panel.model)
        ax.set_yticks(range(len(order)), [self._run.methods[method].title for method in order])
        if k == 0:
            ax.invert_yaxis()

    def report(self, path: str | Path | None = None) -> Path:
        """Write the report, a page with tables beside it; see `seewhy.bench.write_report`."""
        return write_report(self.folder, path)

    def __str__(self) -> str:
        return markdown(self._run, self.scores)

    def _repr_html_(self) -> str:
        """Show the leaderboard in a notebook."""
        rows = []
        metrics = [label for label, info in self._run.metrics.items() if not info.is_part]
        for panel in self._run.panels:
            scores = scores_of(panel, self.scores)
            for method in methods_with_scores(self._run, scores, metrics[0]):
                cells = [scores.get((method, metric)) for metric in metrics]
                texts = ["–" if s is None or s.mean is None else f"{s.mean:.4g}" for s in cells]
                rows.append([panel.model, self._run.methods[method].title, *texts])
        head = ["model", "method", *(self._run.metrics[metric].heading for metric in metrics)]
        lines = ["".join(f"<th>{_escaped(text)}</th>" for text in head)]
        lines += ["".join(f"<td>{_escaped(text)}</td>" for text in row) for row in rows]
        return f"<table>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"


def _library(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        raise MissingExtraError(f"{name} is not installed; pip install {name}, or take to_arrow()") from None


def _escaped(text: str) -> str:
    from markupsafe import escape

    return str(escape(text))


def _given(
    models: ModelSpec | Sequence[ModelSpec] | Mapping[str, ModelSpec], data: str | Mapping[str, Any] | Dataset
) -> tuple[list[dict[str, Any]], Given]:
    """Return the plan's entries of the models, and the objects that stand behind them."""
    if isinstance(models, Mapping):
        labeled = [(str(label), spec) for label, spec in models.items()]
    elif isinstance(models, str | Path | VisionModel | nn.Module):
        labeled = [("", models)]
    else:
        labeled = [("", spec) for spec in models]
    entries: list[dict[str, Any]] = []
    objects: dict[str, VisionModel] = {}
    for label, spec in labeled:
        if isinstance(spec, str | Path):
            entries.append({"name": label or str(spec), "source": str(spec)})
            continue
        if not isinstance(spec, VisionModel | nn.Module):
            raise OptionError(
                f"cannot evaluate a {type(spec).__name__}; pass a name, a path, a model of seewhy.load_model or wrap, "
                "or an nn.Module"
            )
        model = spec if isinstance(spec, VisionModel) else wrap(spec)
        name = label or model.name
        entries.append({"name": name, "source": name})
        objects[name] = model
    return entries, Given(objects, data if isinstance(data, Dataset) else None)


def _entries(entries: Entry | Sequence[Entry]) -> list[Any]:
    listed = [entries] if isinstance(entries, str | Mapping) else entries
    return [entry if isinstance(entry, str) else dict(entry) for entry in listed]


def _table(data: str | Mapping[str, Any]) -> dict[str, Any]:
    return {"name": data} if isinstance(data, str) else {k: v for k, v in data.items() if v is not None}
