"""The how-to pages work as they stand: their files are written, imported, and their tests run."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path

import pytest

from seewhy.data.base import DATASETS
from seewhy.methods.base import METHODS
from seewhy.metrics.base import METRICS
from seewhy.models.sources.base import SOURCES

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGES = sorted((DOCS / "howto").glob("*.md"))


def files_of(page: Path) -> dict[str, str]:
    """The files that a page shows, by name; blocks of one name are one file."""
    files: dict[str, str] = {}
    for name, text in re.findall(
        r'^```python title="(.+?)"\n(.*?)^```', page.read_text("utf-8"), re.DOTALL | re.MULTILINE
    ):
        files[name] = files.get(name, "") + text
    return files


@pytest.fixture(autouse=True)
def _registries_stay(monkeypatch):
    """What a page registers is forgotten after its test."""
    for registry in (METHODS, METRICS, DATASETS, SOURCES):
        len(registry)  # fill it first
        monkeypatch.setattr(registry, "_entries", dict(registry._entries))


@pytest.mark.timeout(400)
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_page_runs(page: Path, tmp_path: Path, monkeypatch) -> None:
    files = files_of(page)
    for name, text in files.items():
        (tmp_path / name).write_text(text, "utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    tests = [name.removesuffix(".py") for name in files if name.startswith("test_")]
    assert tests, f"{page.name} shows no test"
    monkeypatch.chdir(tmp_path)
    try:
        for name in tests:
            module = importlib.import_module(name)
            functions = [value for key, value in vars(module).items() if key.startswith("test_")]
            assert functions
            for function in functions:
                function()
    finally:
        for name in files:
            sys.modules.pop(name.removesuffix(".py"), None)


def test_there_is_a_page_for_each_kind_of_part() -> None:
    assert [page.stem for page in PAGES] == [
        "write-a-dataset",
        "write-a-method",
        "write-a-metric",
        "write-a-model-source",
    ]


@pytest.mark.parametrize("page", [*DOCS.rglob("*.md"), *DOCS.parent.glob("*.md")], ids=lambda page: page.name)
def test_links_lead_to_files(page: Path) -> None:
    prose = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
    for link in re.findall(r"\]\((?!https?:|mailto:|#)([^)#]+)", prose):
        assert (page.parent / link).exists(), f"{page.name} links to {link}, which is not there"
