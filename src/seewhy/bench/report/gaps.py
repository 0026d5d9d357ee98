"""Gaps of a table: methods that cannot serve a model, and rows of the paper that we do not run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from seewhy.bench.report.infos import Panel
from seewhy.bench.report.published import RESERVED
from seewhy.bench.report.run_data import RunData
from seewhy.methods import METHODS

NOT_OURS = "the paper's own, not part of this run"


@dataclass(frozen=True)
class Gap:
    """A row without numbers of ours.

    Attributes:
        method: Label of the method.
        title: Name for people.
        reason: Why there are no numbers.
    """

    method: str
    title: str
    reason: str


def find_gaps(run: RunData, panel: Panel) -> list[Gap]:
    """Return the methods of the plan that cannot serve the model, then the paper's rows that we do not run."""
    skipped = {
        entry["method"]: short_reason(entry["reason"])
        for entry in run.manifest.get("skipped") or ()
        if entry["model"] == panel.model and entry.get("named", True)
    }
    published = run.plan.get("published") or {}
    of_model = published.get(panel.model)
    table = of_model if isinstance(of_model, dict) else {k: v for k, v in published.items() if isinstance(v, dict)}
    only_published = [
        name for name in table if name not in RESERVED and name not in run.methods.keys() | skipped.keys()
    ]
    if not isinstance(of_model, dict) and any(model.model in table for model in run.panels):
        only_published = []  # the paper has other models only
    reasons = skipped | dict.fromkeys(only_published, NOT_OURS)
    return [Gap(name, _title(name), reason) for name, reason in reasons.items()]


def describe_skipped(manifest: Mapping[str, Any]) -> list[str]:
    """Return a sentence for each method that the plan names and one for all others that cannot serve a model."""
    sentences, others = [], dict[str, list[str]]()
    for entry in manifest.get("skipped") or ():
        if entry.get("named", True):
            reason = short_reason(entry["reason"])
            sentences.append(f"{_title(entry['method'])} was not run on {entry['model']}: {reason}.")
        else:
            others.setdefault(entry["model"], []).append(_title(entry["method"]))
    for model, titles in others.items():
        noun = "method" if len(titles) == 1 else "methods"
        sentences.append(f"{len(titles)} further {noun} cannot serve {model}: {', '.join(titles)}.")
    return sentences


def short_reason(reason: str) -> str:
    """Return the reason without the advice, which is for the author of the plan."""
    return reason.partition("; ")[0]


def _title(label: str) -> str:
    return METHODS[label].card.title if label in METHODS else label
