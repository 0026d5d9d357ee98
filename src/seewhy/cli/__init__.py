"""The command line: one file per command, no mathematics, nothing heavy imported before a command runs."""

from __future__ import annotations

import sys

import typer

from seewhy.cli import (
    bench,
    compare,
    data,
    demo,
    dream,
    explain,
    info,
    methods,
    metrics,
    models,
    sanity,
    segment,
    tcav,
    train,
)
from seewhy.errors import SeewhyError

EXIT_CODES = (
    "Exit codes: 0 all well, 1 something else of seewhy's, 2 a wrong option or name, 3 an image, 4 a target, "
    "5 a model, 6 a method that cannot serve the model, 7 a missing extra, 8 a constant map, 9 a data set."
)

app = typer.Typer(
    name="seewhy",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_show_locals=False,
    help="See what a vision model looks at, ask why, and measure how far the picture can be trusted.",
    epilog=EXIT_CODES,
)
for command in (explain, compare, segment, dream, sanity, tcav, methods, metrics, models, info, demo):
    name = command.__name__.rsplit(".", 1)[-1]
    app.command(name)(getattr(command, name))
for name, group in (("bench", bench), ("data", data), ("train", train)):
    app.add_typer(group.app, name=name)


@app.callback(invoke_without_command=True)
def top(version: bool = typer.Option(False, "--version", help="Print the version and stop.")) -> None:
    if version:
        from seewhy import __version__

        typer.echo(__version__)
        raise typer.Exit


def main() -> None:
    """Run the command line; every error of seewhy's own becomes one line and an exit code."""
    try:
        app()
    except SeewhyError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except OSError as error:
        if not error.filename:
            raise
        print(f"error: {error.filename}: {error.strerror}; choose another place or name", file=sys.stderr)
        sys.exit(SeewhyError.exit_code)
