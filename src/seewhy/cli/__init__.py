"""The command line: one file per command, no mathematics, nothing heavy imported before a command runs."""

from __future__ import annotations

import io
import sys
import warnings
from typing import TextIO

import typer

from seewhy.cli import bench, data, train
from seewhy.cli.compare import compare
from seewhy.cli.demo import demo
from seewhy.cli.explain import explain
from seewhy.cli.info import info
from seewhy.cli.methods import methods
from seewhy.cli.metrics import metrics
from seewhy.cli.models import models
from seewhy.cli.randomization_test import randomization_test
from seewhy.cli.segment import segment
from seewhy.cli.tcav import tcav
from seewhy.cli.visualize_class import visualize_class
from seewhy.errors import SeewhyError

EXIT_CODES = (
    "Exit codes: 0 success, 1 other seewhy error, 2 invalid option or unknown name, 3 unreadable image, "
    "4 invalid target, 5 model error, 6 method does not support the model, 7 missing optional dependency, "
    "8 constant map, 9 dataset error."
)

app = typer.Typer(
    name="seewhy",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_show_locals=False,
    help="See what a vision model looks at, ask why, and measure how far the answer can be trusted.",
    epilog=EXIT_CODES,
)
for command in (
    explain,
    compare,
    segment,
    visualize_class,
    randomization_test,
    tcav,
    methods,
    metrics,
    models,
    info,
    demo,
):
    app.command(command.__name__.replace("_", "-"))(command)
for group in (bench, data, train):
    app.add_typer(group.app, name=group.__name__.rsplit(".", 1)[-1])
# names of earlier versions
app.command("dream", hidden=True)(visualize_class)
app.command("sanity", hidden=True)(randomization_test)


@app.callback(invoke_without_command=True)
def top(version: bool = typer.Option(False, "--version", help="Print the version and exit.")) -> None:
    """Handle the options that stand before a command."""
    if version:
        from seewhy import __version__

        typer.echo(__version__)
        raise typer.Exit


def main() -> None:
    """Run the command line; every error of seewhy's own becomes one line and an exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # file names and arrows that the console has no characters for
            stream.reconfigure(errors="backslashreplace")
    warnings.showwarning = _one_line
    try:
        app()
    except SeewhyError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except OSError as error:
        if not error.strerror:
            raise
        place = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
        print(f"error: {place}; choose another path", file=sys.stderr)
        sys.exit(SeewhyError.exit_code)


def _one_line(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Print a warning as the commands print errors."""
    print(f"warning: {(str(message).strip().splitlines() or [''])[0]}", file=sys.stderr)
