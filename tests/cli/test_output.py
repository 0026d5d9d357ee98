"""What the commands print: whole lines into pipes, one line for each error, nothing else."""

from __future__ import annotations

import json
import sys

import pytest
import toys

from seewhy.cli import common, main
from seewhy.methods import METHODS
from seewhy.metrics import METRICS
from seewhy.models.adapter import VisionModel


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """Run a command line on a toy: exit code, standard output, standard error."""

    def run(*words: object, model: VisionModel | None = None) -> tuple[int, str, str]:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("COLUMNS", "60")
        monkeypatch.setattr(sys, "argv", ["seewhy", *map(str, words)])
        monkeypatch.setattr("seewhy.cli.loading.Loading.model", lambda *_: model or toys.toy_cnn())
        with pytest.raises(SystemExit) as stop:
            main()
        return stop.value.code or 0, *capsys.readouterr()

    return run


@pytest.fixture
def images(cat, tmp_path):
    for name in ("a.png", "b.png"):
        cat.save(tmp_path / name)
    (tmp_path / "text.jpg").write_text("not an image")
    return tmp_path


@pytest.mark.parametrize(("command", "registry"), [("methods", METHODS), ("metrics", METRICS)])
def test_a_list_in_a_pipe_has_one_line_for_each(run, command, registry):
    _, out, _ = run(command)
    lines = out.splitlines()[1:]
    assert sorted(line.split()[0] for line in lines) == registry.names()
    for line in lines:
        assert line.endswith(registry.get(line.split()[0]).card.summary)


@pytest.mark.parametrize(("command", "registry"), [("methods", METHODS), ("metrics", METRICS)])
def test_one_name_gives_all_that_there_is_to_know(run, command, registry):
    name = registry.names("*i*")[0]
    code, out, _ = run(command, name)
    card = registry.get(name).card
    assert code == 0
    assert all(text in out for text in (card.title, card.summary, card.citation, "needs: "))
    for option, about in common.option_cards(registry.get(name)).items():
        assert f"  {option}={about['default']}  {about['help']}" in out


@pytest.mark.parametrize("command", ["methods", "metrics", "models"])
def test_a_name_that_is_not_there_is_an_error(run, command):
    code, out, err = run(command, "fidelitty")
    assert (code, out) == (2, "")
    assert err.startswith("error: unknown ")


def test_an_error_names_the_image_once(run, images):
    code, out, err = run("explain", "text.jpg", "a.png", "-M", "lafam")
    assert (code, out.count("\n"), err.count("\n"), err.count("text.jpg")) == (3, 1, 1, 1)
    _, _, err = run("segment", "text.jpg")
    assert (err.count("\n"), err.count("text.jpg")) == (1, 1)


def test_no_bar_is_drawn_where_there_is_no_terminal(run, images):
    assert run("explain", "a.png", "b.png", "-M", "lafam")[2] == ""


def test_maps_of_targets_with_like_names_are_all_kept(run, images):
    model = toys.toy_cnn()
    model.class_names = [f"{'a very long name that does not fit into a folder ' * 2}{i}" for i in range(5)]
    code, out, _ = run("explain", "a.png", "-M", "lafam", "-M", "grad_cam", "--top", "3", "--json", model=model)
    rows = json.loads(out)
    assert code == 0
    assert len({row["folder"] for row in rows}) == len(rows) == 1 + 3
    assert all((images / row["folder"] / "map.safetensors").exists() for row in rows)


@pytest.mark.parametrize(
    "words",
    [
        ("compare", "a.png", "-M", "lafam", "-o", "c.png2"),
        ("compare", "a.png", "-M", "lafam", "-o", "."),
        ("randomization-test", "a.png", "-M", "lafam", "-o", "c.html"),
    ],
)
def test_what_cannot_work_is_said_in_one_line_before_the_work(run, images, words, monkeypatch):
    monkeypatch.setattr("seewhy.methods.Method.__call__", lambda *_, **__: pytest.fail("worked"))
    code, _, err = run(*words)
    assert (code, err.count("\n"), err[:7]) == (2, 1, "error: ")


def test_a_place_that_cannot_be_written_is_named(run, images):
    code, _, err = run("explain", "a.png", "-M", "lafam", "-o", "b.png")
    assert (code, err.count("\n")) == (1, 1)
    assert err.startswith("error: a.png: b.png/a cannot be written")


def test_figures_end_as_images_do(tmp_path):
    for name in ("a.png", "b.JPG", "c.webp"):
        assert common.figure_path(tmp_path / name) == tmp_path / name
    assert common.figure_path(tmp_path / "d.html", ".html").name == "d.html"
