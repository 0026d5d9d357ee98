"""Entries of a run's manifest: models, methods, metrics, software and hardware, as plain values."""

from __future__ import annotations

import dataclasses
import os
import platform
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from seewhy import __version__
from seewhy.bench.plan import PlanEntry
from seewhy.bench.reference_maps import ReferenceMap
from seewhy.core.cards import DatasetCard, MethodCard, MetricCard
from seewhy.methods import Method
from seewhy.metrics import Metric
from seewhy.models.adapter import VisionModel
from seewhy.models.fingerprint import fingerprint
from seewhy.models.load import source_packages

PACKAGES = ("numpy", "pillow", "pyarrow")
"""Distributions whose versions a manifest holds beside those that models come from."""

REFERENCE_FAMILY = "baseline"  # as in the manifests of earlier versions, so that runs can be compared with them


def describe_model(entry: PlanEntry, model: VisionModel) -> dict[str, Any]:
    """Describe a loaded model: where it comes from, its weights, device and preprocessing."""
    preprocess = model.preprocess
    to_dict = getattr(preprocess, "to_dict", None)  # a function of the user's own has none
    return {
        "name": entry.label,
        "source": entry.name,
        "options": entry.options,
        "classes": model.classes,
        "weights": fingerprint(model.module),
        "device": str(model.device),
        "dtype": str(model.dtype),
        "preprocess": to_dict() if callable(to_dict) else str(preprocess),
    }


def describe_method(label: str, method: Method) -> dict[str, Any]:
    """Describe a configured method."""
    return {
        "label": label,
        **describe_card(method.card),
        "signed": method.is_signed,
        "options": method.options,
        "cost": str(method.cost),
        "passes": method.cost.forward,
    }


def describe_reference_map(reference: ReferenceMap) -> dict[str, Any]:
    """Describe a reference map in the terms of a method."""
    return {
        "label": reference.name,
        "name": reference.name,
        "title": reference.title,
        "family": REFERENCE_FAMILY,
        "summary": reference.summary,
        "class_specific": reference.class_specific,
        "signed": False,
        "citation": "",
        "options": {},
        "cost": "0 forward",
        "passes": 0,
    }


def describe_metric(label: str, metric: Metric) -> dict[str, Any]:
    """Describe a configured metric."""
    return {
        "label": label,
        **describe_card(metric.card),
        "options": metric.options,
        "axis": metric.axis,
        "axis_title": metric.axis_title,
        "passes": metric.passes,
    }


def describe_card(card: MethodCard | MetricCard | DatasetCard) -> dict[str, Any]:
    """Return the fields of a card that are values."""
    values = {field.name: getattr(card, field.name) for field in dataclasses.fields(card)}
    return {
        name: sorted(value) if isinstance(value, frozenset) else value
        for name, value in values.items()
        if not callable(value)
    }


def installed_versions() -> dict[str, str]:
    """Return the versions of seewhy, of Python and of the libraries that numbers may depend on."""
    versions = {"seewhy": __version__, "torch": torch.__version__, "python": platform.python_version()}
    for package in (*PACKAGES, *source_packages()):
        with suppress(PackageNotFoundError):
            versions[package] = version(package)
    return versions


def describe_hardware(device: torch.device) -> dict[str, Any]:
    """Describe the machine and the device that the first model runs on."""
    return {
        "device": str(device),
        "machine": platform.machine(),
        "system": platform.system(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "host": platform.node(),
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
    }
