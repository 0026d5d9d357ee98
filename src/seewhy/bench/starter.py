"""A plan to begin with: every key with what it does, made from the format itself."""

from __future__ import annotations

import textwrap
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from seewhy.bench.plan_file import DataTable, PlanFile, Protocol
from seewhy.bench.toml import format_value

WIDTH = 100
HEAD = """\
# A benchmark: which methods are scored by which metrics, for which models, on which data.
# Try it:    seewhy bench run {name} --n 4 -o runs/trial
# Whole:     seewhy bench run {name} -o runs/mine      (stopped? seewhy bench resume runs/mine)
# Results:   seewhy bench report runs/mine
# A line that begins with "# key =" is a key at its default.
"""
EXAMPLES: dict[str, tuple[str, str]] = {
    "models": (
        'models = ["scenes_vit"]',
        'Names of `seewhy models`, or tables: {name = "mine", source = "weights.pth", architecture = '
        '"timm/vit_small_patch16_224", num_classes = 12}. Further keys are options of load_model.',
    ),
    "methods": (
        'methods = ["cdam", "grad_cam", {name = "rise", n_masks = 500}]',
        'Names of `seewhy methods`, or tables with options and, if you like, a label; "all": every method that serves '
        "a model, besides those that are named.",
    ),
    "metrics": (
        'metrics = ["pointing_game", "auc", {name = "fidelity", n_steps = 20}]',
        "Names of `seewhy metrics`, or tables with options.",
    ),
    "name": ('name = "scenes"', "Name of `seewhy data list`; further keys are options of the dataset."),
}
"""What is written for keys that have no default, and said of them."""


def starter_plan(name: str = "plan.toml") -> str:
    """Return a plan that runs as it is, with every key that plans have and what it does.

    Args:
        name: Name of the file, for the commands that stand in it.
    """
    parts = [HEAD.format(name=name), *_keys(PlanFile, without={"data", "protocol", "published"})]
    parts += ["[data]", *_keys(DataTable), "[protocol]", *_keys(Protocol)]
    return "\n".join(parts)


def _keys(table: type[BaseModel], without: frozenset[str] | set[str] = frozenset()) -> list[str]:
    """Return for each key of a table a comment, and the key."""
    parts = []
    for key, field in table.model_fields.items():
        if key in without:
            continue
        line, about = EXAMPLES.get(key, ("", field.description or ""))
        lines = textwrap.wrap(about, WIDTH, initial_indent="# ", subsequent_indent="# ", break_long_words=False)
        parts.append("\n".join([*lines, line or _default(key, field.get_default(call_default_factory=True))]) + "\n")
    return parts


def _default(key: str, value: Any) -> str:
    """Return a key at its default, as a comment; TOML has no word for None."""
    empty = value is None or value is PydanticUndefined
    return f"# {key} = …  (not set)" if empty else f"# {key} = {format_value(value)}"
