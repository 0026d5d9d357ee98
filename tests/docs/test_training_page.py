"""What docs/training.md shows works as it stands there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer

from seewhy.cli import app

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = DOCS / "training.md"


def blocks(language: str, page: Path = PAGE) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text("utf-8"), re.DOTALL | re.MULTILINE)


LINES = [line for page in (PAGE, DOCS / "nodules.md") for block in blocks("sh", page) for line in block.splitlines()]


@pytest.mark.parametrize("line", LINES)
def test_a_command_line_is_one_that_seewhy_takes(line: str) -> None:
    command, (_, *words) = typer.main.get_command(app), shlex.split(line)
    context = typer.Context(command, info_name="seewhy")
    while hasattr(command, "commands") and words and words[0] in command.commands:
        command = command.commands[words.pop(0)]
    command.make_context("seewhy", words, parent=context)


def test_the_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for block in blocks("python"):
        exec(block, names)
    assert names["shown"].target_title == "diameter"
    assert {path.name for path in Path("runs").iterdir()} == {"head", "sizes", "line"}
