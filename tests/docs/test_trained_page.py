"""docs/trained.md: its commands exist, its plan is one, its Python runs."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer

from seewhy.cli import app
from seewhy.core.options import options_of
from seewhy.methods.trained.ala_net import ALASettings
from seewhy.training.explainer_plan import ExplainerPlan

PAGE = (Path(__file__).resolve().parents[2] / "docs/trained.md").read_text("utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


COMMANDS = [line.split(" #")[0] for block in blocks("sh") for line in block.splitlines()]


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_line_is_one_that_seewhy_takes(line: str) -> None:
    command, (_, *words) = typer.main.get_command(app), shlex.split(line)
    context = typer.Context(command, info_name="seewhy")
    while hasattr(command, "commands") and words and words[0] in command.commands:
        command = command.commands[words.pop(0)]
    command.make_context("seewhy", words, parent=context)


def test_the_plan_is_one_of_ours() -> None:
    (plan,) = blocks("toml")
    assert ExplainerPlan.parse("ala", plan).networks == {"patch": 14}


def test_the_python_runs(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in blocks("python"):
        exec(block, names)
    assert names["explanation"].title == "Attention Lattice Adapter"
    assert names["answers"].shape == (1, 12)
    assert names["again"].classes == names["ala"].classes


def test_every_setting_that_it_names_is_one() -> None:
    (table,) = re.findall(r"^\| open \|.*?\n\n", PAGE, re.DOTALL | re.MULTILINE)
    named = {name for line in table.strip().splitlines()[2:] for name in re.findall(r"`(\w+)`", line.split("|")[2])}
    assert named - {"miou"} <= set(options_of(ALASettings))
    assert len(named) > 8
