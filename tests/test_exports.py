"""What the stubs promise is there, and what is registered stands in them: a missing line is named."""

from __future__ import annotations

import ast
import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import seewhy
from seewhy.checks import DATASET_CHECKS, METHOD_CHECKS, METRIC_CHECKS, MODEL_CHECKS, SOURCE_CHECKS
from seewhy.data.base import DATASETS
from seewhy.methods.base import METHODS
from seewhy.metrics.base import METRICS

PACKAGES = ["", "analysis", "bench", "checks", "data", "methods", "metrics", "models", "training", "viz"]
REGISTRIES = {"methods": METHODS, "metrics": METRICS, "data": DATASETS}


def stub_of(package: str) -> Path:
    return Path(seewhy.__file__).parent / package / "__init__.pyi"


def exports(package: str) -> dict[str, str]:
    """The names in a stub, each with the module that it is imported from."""
    nodes = [node for node in ast.parse(stub_of(package).read_text("utf-8")).body if isinstance(node, ast.ImportFrom)]
    for node in nodes:
        assert node.level == 1, f"{stub_of(package)}:{node.lineno} imports from outside of the package"
        for alias in node.names:
            assert alias.asname == alias.name, f"{stub_of(package)}:{node.lineno} needs '{alias.name} as {alias.name}'"
    return {alias.name: node.module or "" for node in nodes for alias in node.names}


@pytest.mark.parametrize("package", PACKAGES)
def test_every_name_of_a_stub_is_there(package: str) -> None:
    module = importlib.import_module(f"seewhy.{package}".rstrip("."))
    for name in exports(package):
        value = getattr(module, name)
        if exports(package)[name]:
            assert not inspect.ismodule(value), f"seewhy.{package}.{name} is hidden by a module of that name"
    assert set(module.__all__) == set(exports(package))


@pytest.mark.parametrize("package", REGISTRIES)
def test_everything_registered_is_exported(package: str) -> None:
    ours = [cls for cls in REGISTRIES[package].values() if cls.__module__.startswith(f"seewhy.{package}.")]
    assert ours
    missing = [
        f"from .{cls.__module__.removeprefix(f'seewhy.{package}.')} import {cls.__name__} as {cls.__name__}"
        for cls in ours
        if cls.__name__ not in exports(package)
    ]
    assert not missing, f"add to {stub_of(package)}: {'; '.join(missing)}"


def test_registries_are_full_at_the_first_look() -> None:
    """In a process that has imported nothing else, the names are those that this one knows."""
    names = {"data": "DATASETS", "metrics": "METRICS", "methods": "METHODS"}
    code = "; ".join(f"from seewhy.{package} import {name}; print(*{name})" for package, name in names.items())
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    for package, line in zip(names, shown.splitlines(), strict=True):
        ours = {key for key, cls in REGISTRIES[package].items() if cls.__module__.startswith("seewhy.")}
        assert set(line.split()) >= ours


def test_every_check_is_exported() -> None:
    everything = (*METHOD_CHECKS, *METRIC_CHECKS, *MODEL_CHECKS, *DATASET_CHECKS, *SOURCE_CHECKS)
    missing = [name for name, _ in everything if name not in exports("checks")]
    assert not missing, f"add to {stub_of('checks')}: {', '.join(missing)}"


def test_every_stub_is_in_the_wheel() -> None:
    text = (Path(seewhy.__file__).parents[2] / "pyproject.toml").read_text("utf-8")
    assert '"**/*.pyi"' in text
