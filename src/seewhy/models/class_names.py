"""Class names from lists, dicts and the files in which people keep them."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from seewhy.core.imagenet import imagenet_classes
from seewhy.core.io import first_line
from seewhy.errors import OptionError

ClassNames = Sequence[str] | Mapping[Any, Any] | str | Path
"""A list, a dict from index to name or from name to index (`class_to_idx`), "imagenet", or a file with one of these."""

FORMS = "a JSON list or dict, a CSV table of index and name, or a text file with a name on each line"


def read_class_names(names: ClassNames | None) -> list[str] | None:
    """Return class names in the order of their indices.

    Args:
        names: A list; a dict from index to name or from name to index; "imagenet"; or a file: JSON (a list, either
            dict, ImageNet's `{"0": ["n01440764", "tench"]}`, or a dict with `class_to_idx`, `id2label` or `classes`),
            CSV (index and name in any order, with or without header), or text with a name on each line.

    Raises:
        OptionError: The file cannot be read, or the indices are not those from 0 on.
    """
    if names is None:
        return None
    if names == "imagenet":
        return list(imagenet_classes())
    if isinstance(names, (str, Path)):
        return _from_file(Path(names))
    if isinstance(names, Mapping):
        return _from_mapping(names)
    return [_label(name) for name in names]


def _from_file(path: Path) -> list[str]:
    try:
        text = path.expanduser().read_text(encoding="utf-8-sig")
        if path.suffix.lower() == ".json" or text.lstrip()[:1] in ("[", "{"):
            return _from_json(json.loads(text), path)
    except (OSError, ValueError) as error:
        raise OptionError(f"cannot read class names from {path} ({first_line(error)}); give {FORMS}") from None
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return _from_table(lines, path) if path.suffix.lower() in (".csv", ".tsv") else lines


def _from_json(content: Any, path: Path) -> list[str]:
    if isinstance(content, Mapping):
        inner = (content[key] for key in ("class_to_idx", "id2label", "classes", "names") if key in content)
        content = next((value for value in inner if isinstance(value, list | Mapping)), content)
    if isinstance(content, Mapping):
        return _from_mapping(content)
    if isinstance(content, list):
        return [_label(name) for name in content]
    raise OptionError(f"{path} holds {type(content).__name__}, not class names; give {FORMS}")


def _from_table(lines: list[str], path: Path) -> list[str]:
    rows = [[cell.strip() for cell in row] for row in csv.reader(lines, delimiter="\t" if "\t" in lines[0] else ",")]
    if all(len(row) == 1 for row in rows):
        header = rows[0][0].lower() in ("name", "class", "label", "class_name")
        return [row[0] for row in rows[header:]]
    for number in (0, 1):
        body = rows if rows[0][number].isdigit() else rows[1:]
        if body and all(len(row) > 1 and row[number].isdigit() for row in body):
            return _from_mapping({int(row[number]): row[1 - number] for row in body})
    raise OptionError(f"{path} has no column of indices beside a column of names; give {FORMS}")


def _from_mapping(names: Mapping[Any, Any]) -> list[str]:
    """Read {index: name}, or torchvision's `class_to_idx`, {name: index}."""
    turned = bool(names) and all(isinstance(value, int) and not isinstance(value, bool) for value in names.values())
    pairs = [(value, key) if turned else (key, value) for key, value in names.items()]
    try:
        by_index = {int(index): _label(name) for index, name in pairs}
    except (TypeError, ValueError):
        raise OptionError("class_names must map an index to a name; pass it as {0: 'cat', 1: 'dog'}") from None
    if sorted(by_index) != list(range(len(pairs))):
        most = max(by_index, default=0)
        raise OptionError(f"class_names lacks some of 0 … {most}, or has one twice; give a name for each class")
    return [by_index[i] for i in range(len(by_index))]


def _label(name: Any) -> str:
    """Return a name; of ImageNet's pairs (WordNet number, name) the name."""
    if isinstance(name, Sequence) and not isinstance(name, str) and name:
        return str(name[-1]).replace("_", " ")
    return str(name)
