"""The JSON schema of plans, with the options of every registered method and metric."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from seewhy.bench.plan_file import EntryTable, PlanFile
from seewhy.bench.reference_maps import REFERENCE_MAPS
from seewhy.core.options import options_schema
from seewhy.data import DATASETS
from seewhy.methods import METHODS
from seewhy.metrics import METRICS


def json_schema() -> dict[str, Any]:
    """Return the JSON schema of plans, with the options of every registered method and metric.

    Editors that know TOML schemas complete and check a plan with it; `seewhy bench schema` prints it.
    """
    schema = PlanFile.model_json_schema(mode="validation")
    properties, definitions = schema["properties"], schema["$defs"]
    definitions.pop("EntryTable", None)
    for kind, registry in (("method", METHODS), ("metric", METRICS)):
        for name, cls in registry.items():
            definitions[f"{kind}.{name}"] = _entry_schema(name, cls)
    properties["models"] = _list_schema([{"type": "string"}, _model_schema()], "Models, by name or with options.")
    properties["methods"] = _list_schema(
        [{"enum": ["all", *METHODS]}, *_references("method", METHODS)],
        'Methods, by name or with options; "all" stands for every other method that serves a model.',
    )
    properties["metrics"] = _list_schema(
        [{"enum": [*METRICS]}, *_references("metric", METRICS)], "Metrics, by name or with options."
    )
    properties["reference_maps"]["items"] = {"enum": list(REFERENCE_MAPS)}
    properties["baselines"] = {**properties["reference_maps"], "deprecated": True, "description": "reference_maps"}
    definitions["DataTable"]["properties"]["name"] = {"enum": list(DATASETS), "description": "Name of the dataset."}
    properties["data"] = {"anyOf": [{"enum": list(DATASETS)}, {"$ref": "#/$defs/DataTable"}]}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "seewhy benchmark plan"}


def _list_schema(choices: list[dict[str, Any]], description: str) -> dict[str, Any]:
    """Describe a list of entries, or one of them alone if it is a string."""
    strings = [choice for choice in choices if "enum" in choice or choice.get("type") == "string"]
    entries = {"type": "array", "minItems": 1, "items": {"anyOf": choices}}
    return {"anyOf": [entries, *strings], "description": description}


def _references(kind: str, names: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [{"$ref": f"#/$defs/{kind}.{name}"} for name in names]


def _entry_schema(name: str, cls: type) -> dict[str, Any]:
    """Describe the table of a method or metric: its name, a label and its options."""
    schema = options_schema(cls)
    summary = cls.card.summary  # type: ignore[attr-defined] # registered classes have a card
    label = EntryTable.model_json_schema()["properties"]["label"]
    schema["properties"] = {"name": {"const": name}, "label": label, **schema["properties"]}
    return {**schema, "required": ["name"], "description": summary}


def _model_schema() -> dict[str, Any]:
    """Describe the table of a model: further keys are options of `load_model`."""
    properties = EntryTable.model_json_schema()["properties"]
    return {
        "type": "object",
        "properties": properties,
        "anyOf": [{"required": ["name"]}, {"required": ["source"]}],
        "additionalProperties": True,
    }
