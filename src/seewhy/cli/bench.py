"""`seewhy bench`: score methods by metrics on data."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from seewhy.cli import common

if TYPE_CHECKING:
    from seewhy.bench.execute.run import Engine
    from seewhy.bench.store import Store

app = typer.Typer(
    help="Score methods by metrics on data: run a plan, resume, report, compare two runs.", no_args_is_help=True
)


@app.callback()
def bench() -> None:
    """Score methods by metrics on data with ground truth."""


@app.command()
def scenes(
    out: Annotated[Path, typer.Option("--out", "-o", help="The Markdown page.")] = Path("scenes.md"),
    n: Annotated[int | None, typer.Option("--n", help="Number of scenes, in place of the preset's.")] = None,
    folder: Annotated[Path | None, typer.Option("--run", help="Keep the run here; one that is there goes on.")] = None,
) -> None:
    """Write which methods put their maximum into the right one of several objects: the preset scenes_objects."""
    from tempfile import TemporaryDirectory

    from seewhy.bench.execute import run as runner
    from seewhy.bench.plan import Plan
    from seewhy.bench.presets import plan_text
    from seewhy.bench.progress import Bars
    from seewhy.bench.report.objects_page import write_objects_page

    with TemporaryDirectory() as scratch, Bars() as bars:
        place = folder or Path(scratch) / "run"
        if (place / "plan.toml").is_file():
            runner.resume(place, None, bars)
        else:
            runner.run(Plan.parse(plan_text("scenes_objects", n=n), "scenes_objects"), place, bars)
        write_objects_page(place, out)
    typer.echo(out)


ENGINES = ("local", "ray")
EngineName = Annotated[str, typer.Option(help="local: this process; ray: a pool of workers (needs the extra `ray`).")]
Workers = Annotated[int, typer.Option(help="With --engine ray: processes, each with a model of its own.")]
Folder = Annotated[Path, typer.Argument(help="Folder of a run.", show_default=False)]


@app.command()
def run(
    plan: Annotated[
        str, typer.Argument(help="The plan: a TOML file, or a name of `seewhy bench presets`.", show_default=False)
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="A new folder for the run.")],
    root: Annotated[Path | None, typer.Option(help="Folder of the data, in place of the plan's.")] = None,
    n: Annotated[int | None, typer.Option("--n", help="Number of samples, in place of the plan's.")] = None,
    source: Annotated[
        list[str] | None, typer.Option(help="LABEL=PATH: where a model of the plan lies; may repeat.")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="key=value in the plan, e.g. protocol.batch_size=4; may repeat.")
    ] = None,
    engine: EngineName = "local",
    workers: Workers = 2,
    as_json: common.AsJson = False,
) -> None:
    """Run a plan: score every method by every metric on every sample."""
    from seewhy.bench.execute import run as runner
    from seewhy.bench.plan import Plan
    from seewhy.bench.presets import plan_text
    from seewhy.bench.progress import Bars

    text = plan_text(plan, root=root, n=n, sources=source or (), settings=settings or ())
    with _resumable(out), Bars() as bars:
        store = runner.run(Plan.parse(text, Path(plan).name), out, bars, _engine(engine, workers))
    _summary(store, as_json)


@app.command()
def resume(
    folder: Folder,
    plan: Annotated[Path | None, typer.Option(help="Refuse if the run was started with another plan.")] = None,
    engine: EngineName = "local",
    workers: Workers = 2,
    as_json: common.AsJson = False,
) -> None:
    """Go on with a run that was interrupted; finished work stays as it is."""
    from seewhy.bench.execute import run as runner
    from seewhy.bench.progress import Bars

    with _resumable(folder), Bars() as bars:
        store = runner.resume(folder, plan, bars, _engine(engine, workers))
    _summary(store, as_json)


@contextmanager
def _resumable(folder: Path) -> Iterator[None]:
    """Say how to go on after Ctrl-C, or when somebody ends the process (SIGTERM)."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except KeyboardInterrupt:
        begun = (folder / "plan.toml").is_file()
        how = f"finished parts are safe; go on: seewhy bench resume {folder}" if begun else "nothing was begun"
        typer.echo(f"stopped: {how}", err=True)
        raise typer.Exit(130) from None
    finally:
        signal.signal(signal.SIGTERM, before)


def _engine(name: str, workers: int) -> Engine | None:
    from seewhy.errors import UnknownNameError

    if name not in ENGINES:
        raise UnknownNameError("engine", name, ENGINES)
    if name == "local":
        return None
    from seewhy.bench.execute.ray_engine import on_ray

    return on_ray(workers)


def _summary(store: Store, as_json: bool) -> None:
    from seewhy.bench.report.gaps import describe_skipped

    counts = store.table(
        "SELECT model, method, count(DISTINCT entry) AS maps, count(value) AS values, "
        "count(error) AS errors FROM rows WHERE method <> '' AND metric <> '' GROUP BY ALL ORDER BY ALL"
    ).to_pylist()
    if as_json:
        common.print_json({"run": str(store.folder), "manifest": store.manifest, "methods": counts})
        return
    for row in counts:
        typer.echo(
            f"{row['model']}  {row['method']}: {row['maps']} maps, {row['values']} values"
            + (f", {row['errors']} without" if row["errors"] else "")
        )
    for sentence in describe_skipped(store.manifest):
        typer.echo(sentence)
    typer.echo(f"{store.folder} (next: seewhy bench report {store.folder})")


@app.command()
def init(
    path: Annotated[Path, typer.Argument(help="The new file.")] = Path("plan.toml"),
) -> None:
    """Write a plan to begin with: it runs as it is, and says of every key what it does."""
    from seewhy.bench.starter import starter_plan
    from seewhy.core.io import atomic_file
    from seewhy.errors import OptionError

    if path.exists():
        raise OptionError(f"{path} exists; give another name")
    with atomic_file(path) as draft:
        draft.write_text(starter_plan(str(path)), "utf-8")
    typer.echo(f"{path} (next: seewhy bench run {path} --n 4 -o runs/trial)")


@app.command()
def presets(
    name: Annotated[str | None, typer.Argument(help="Print this one's plan.", show_default=False)] = None,
    as_json: common.AsJson = False,
) -> None:
    """List the plans that come with seewhy: what they measure and what they need; or print one, to begin with."""
    from seewhy.bench.presets import list_presets, plan_text

    if name is not None:
        typer.echo(plan_text(name), nl=False)
        return
    available = list_presets()
    if as_json:
        common.print_json([{"name": p.name, "about": p.about, "needs": p.needs} for p in available])
        return
    for preset in available:
        typer.echo(f"{preset.name}\n  {preset.about}\n  needs: {preset.needs or 'nothing'}\n")


@app.command()
def schema() -> None:
    """Print the JSON schema of plans: an editor that knows it completes and checks a plan while you write it."""
    from seewhy.bench.plan import Plan

    common.print_json(Plan.json_schema())


@app.command()
def speed(
    model: Annotated[
        list[str] | None,
        typer.Option("--model", "-m", help="A name of `seewhy models`, with random weights; may repeat."),
    ] = None,
    batch: Annotated[list[int] | None, typer.Option(help="Images in a batch; may repeat.")] = None,
    only: Annotated[list[str] | None, typer.Option(help="Only tasks with this word in their name; may repeat.")] = None,
    repeats: Annotated[int, typer.Option(help="How often each task is timed.")] = 5,
    threads: Annotated[int, typer.Option(help="Threads of torch.")] = 1,
    peers: Annotated[bool, typer.Option(help="Also time other libraries that are installed.")] = True,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Write the page here.")] = None,
    as_json: common.AsJson = False,
) -> None:
    """Measure what maps cost on this machine: time in forwards of the model, maps per second, memory; also of peers."""
    from seewhy.bench.speed.table import MODELS, as_markdown, measure

    measured = measure(
        model or MODELS,
        batch or (1,),
        only=only or (),
        repeats=repeats,
        threads=threads,
        peers=peers,
        progress=common.progress,
    )
    if out is not None:
        out.write_text(as_markdown(measured), "utf-8")
    if as_json:
        common.print_json(measured)
    else:
        typer.echo(out if out is not None else as_markdown(measured))


@app.command()
def report(
    folder: Folder,
    output: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="The page; default: report.html in the run's folder. CSV, LaTeX and Markdown lie beside it.",
        ),
    ] = None,
) -> None:
    """Write the report of a run: a page with tables, curves and images, and the tables as CSV, LaTeX and Markdown."""
    from seewhy.bench.report import write_report

    typer.echo(write_report(folder, output))


@app.command()
def diff(
    first: Folder,
    second: Annotated[Path, typer.Argument(help="Folder of another run.", show_default=False)],
    as_json: common.AsJson = False,
) -> None:
    """Compare two runs: the protocol first, then the scores, significant changes first."""
    from seewhy.bench.diff import compare_runs, format_comparison

    comparison = compare_runs(first, second)
    if as_json:
        common.print_json(comparison.to_dict())
        return
    for line in format_comparison(comparison):
        typer.echo(line)
