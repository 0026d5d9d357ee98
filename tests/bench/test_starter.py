"""`seewhy bench init`: the plan to begin with has every key, and runs."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from seewhy.bench.plan import Plan
from seewhy.bench.plan_file import DataTable, PlanFile, Protocol
from seewhy.bench.presets import list_presets
from seewhy.bench.starter import starter_plan
from seewhy.cli import app
from seewhy.errors import OptionError


def test_it_is_a_plan_and_names_every_key():
    text = starter_plan()
    plan = Plan.parse(text)
    assert [model.name for model in plan.models] == ["scenes_vit"]
    for table in (PlanFile, DataTable, Protocol):
        for key in table.model_fields.keys() - {"data", "protocol", "published"}:
            assert f"\n{key} = " in text or f"\n# {key} = " in text, key
    assert all(len(line) <= 121 for line in text.splitlines())


def test_a_default_that_is_uncommented_changes_nothing():
    text = starter_plan()
    defaults = [line for line in text.splitlines() if line.startswith("# ") and " = " in line and "…" not in line]
    keys = (*PlanFile.model_fields, *Protocol.model_fields)
    for line in defaults:
        key = line.removeprefix("# ").split(" = ")[0]
        if key in keys:
            assert Plan.parse(text.replace(line, line.removeprefix("# "))).protocol == Plan.parse(text).protocol, key


def test_the_command_writes_it_once(tmp_path):
    path = tmp_path / "mine.toml"
    result = CliRunner().invoke(app, ["bench", "init", str(path)])
    assert f"seewhy bench run {path} --n 4" in result.output
    assert f"seewhy bench run {path} -o runs/mine" in path.read_text()
    again = CliRunner().invoke(app, ["bench", "init", str(path)])
    assert isinstance(again.exception, OptionError)


@pytest.mark.parametrize("name", ["scenes_multi", "cdam_val"])
def test_a_preset_is_printed_as_it_is(name):
    printed = CliRunner().invoke(app, ["bench", "presets", name]).output
    assert printed == next(preset.text for preset in list_presets() if preset.name == name)
