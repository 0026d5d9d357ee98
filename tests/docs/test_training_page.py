"""What docs/training.md shows works as it stands there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer

from seewhy.cli import app

PAGE = Path(__file__).resolve().parents[2] / "docs" / "training.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE.read_text("utf-8"), re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("line", [line for block in blocks("sh") for line in block.splitlines()])
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
