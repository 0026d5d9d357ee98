"""What README.md shows works as it stands there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import torch
import typer

import seewhy
from seewhy.cli import app

README = Path(__file__).resolve().parents[1] / "README.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README.read_text("utf-8"), re.DOTALL | re.MULTILINE)


def commands() -> list[str]:
    """Every command line of ours, those named in comments too."""
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    return [line.split("#")[0] for line in lines if line.startswith("seewhy ")] + [
        f"seewhy {inside}" for line in lines for inside in re.findall(r"#.*`(m\w+ [^`]*)`", line)
    ]


@pytest.mark.parametrize("line", commands())
def test_a_command_line_is_one_that_seewhy_takes(line: str) -> None:
    command, (_, *words) = typer.main.get_command(app), shlex.split(line)
    context = typer.Context(command, info_name="seewhy")
    while hasattr(command, "commands") and words and words[0] in command.commands:
        command = command.commands[words.pop(0)]
    command.make_context("seewhy", words, parent=context)  # an unknown option or a missing argument is an error


def test_the_python_runs(cat, coffee, tmp_path, monkeypatch) -> None:
    pytest.importorskip("efficientnet_lite_pytorch")
    monkeypatch.chdir(tmp_path)
    Path("images/dogs").mkdir(parents=True)
    for name in ("cat.jpg", "a.jpg", "images/dogs/1.jpg"):
        cat.save(name)
    coffee.save("b.jpg")
    masks = torch.zeros(2, 96, 96, dtype=torch.bool)
    masks[:, 30:60, 30:60] = True
    names = {
        "seewhy": seewhy,
        "masks": masks,
        "my_module": torch.nn.Sequential(
            torch.nn.Conv2d(3, 4, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(4, 2)
        ),
        "my_transform": seewhy.Preprocess(size=(32, 32), resize=32),
    }
    for block in blocks("python"):
        exec(block, names)
    assert {path.name for path in Path("out/a").iterdir()} >= {"map.safetensors", "overlay.png"}
    assert Path("cat.png").stat().st_size > 1000
    assert names["maps"].shape == (2, 96, 96)


def test_every_file_that_it_names_is_there() -> None:
    text = README.read_text("utf-8")
    for path in re.findall(r"\]\((?!http)([^)]+)\)|`(src/[^`<>]+)`", text):
        assert (README.parent / (path[0] or path[1])).exists(), path
