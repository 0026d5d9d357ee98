"""The change log and the citation say what is true of the code."""

from __future__ import annotations

import importlib
import re
import tomllib
from pathlib import Path

import pytest

import seewhy

ROOT = Path(__file__).resolve().parents[2]
CHANGELOG = (ROOT / "CHANGELOG.md").read_text("utf-8")


def resolve(dotted: str) -> object:
    """The module or attribute of that name."""
    parts = dotted.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            found: object = importlib.import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for part in parts[cut:]:
            # fields of dataclasses without a default are annotations of the class only
            if part in getattr(found, "__annotations__", {}) and not hasattr(found, part):
                return found
            found = getattr(found, part)
        return found
    raise ModuleNotFoundError(dotted)


@pytest.mark.parametrize("name", re.findall(r"^\| `.+?` \| `(seewhy\..+?)` \|$", CHANGELOG, re.MULTILINE))
def test_new_name_of_the_migration_table_exists(name: str) -> None:
    resolve(name)


def test_citation_and_manifest_have_the_version() -> None:
    citation = (ROOT / "CITATION.cff").read_text("utf-8")
    assert re.search(r"^version: (.+)$", citation, re.MULTILINE)[1] == seewhy.__version__


def test_every_extra_that_a_hint_could_name_is_in_all_or_said_why() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    in_all = set(re.findall(r"[\w]+", extras["all"][0].removeprefix("seewhy"))) | {"cluster"}  # by segmentation
    alone = {"all", "demo", "ray", "test", "lint", "dist", "dev"}  # tools, or larger than what most people need
    assert set(extras) == in_all | alone


def test_constraints_pin_every_requirement_of_the_tests() -> None:
    """A requirement without a pin is another version tomorrow."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    pins = {line.split("==")[0].lower().replace("_", "-") for line in (ROOT / "constraints.txt").read_text().split()}
    names = [*extras["dependencies"], *(each for many in extras["optional-dependencies"].values() for each in many)]
    asked = {re.match(r"[\w.-]+", name)[0].lower().replace("_", "-") for name in names} - {"seewhy"}
    assert asked <= pins, f"pin {', '.join(sorted(asked - pins))} in constraints.txt"
