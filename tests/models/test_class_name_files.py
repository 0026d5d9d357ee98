"""Class names out of every form in which people keep them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from seewhy.errors import OptionError
from seewhy.models.class_names import read_class_names

NAMES = ["cat", "dog", "ox"]


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("a.txt", "cat\ndog\n\nox\n"),
        ("a.json", json.dumps(NAMES)),
        ("a.json", json.dumps({"0": "cat", "1": "dog", "2": "ox"})),
        ("a.json", json.dumps({"ox": 2, "cat": 0, "dog": 1})),
        ("a.json", json.dumps({"class_to_idx": {"cat": 0, "dog": 1, "ox": 2}, "epoch": 3})),
        ("config.json", json.dumps({"id2label": {"0": "cat", "1": "dog", "2": "ox"}})),
        ("a.json", json.dumps({"0": ["n1", "cat"], "1": ["n2", "dog"], "2": ["n3", "ox"]})),
        ("a.csv", "2,ox\n0,cat\n1,dog\n"),
        ("a.csv", "name,index\ncat,0\ndog,1\nox,2\n"),
        ("a.tsv", "0\tcat\n1\tdog\n2\tox\n"),
        ("a.csv", "class\ncat\ndog\nox\n"),
        ("bom.txt", "\ufeffcat\ndog\nox"),
    ],
)
def test_forms(file: str, text: str, tmp_path: Path) -> None:
    (tmp_path / file).write_text(text, encoding="utf-8")
    assert read_class_names(tmp_path / file) == NAMES


def test_values_in_python() -> None:
    assert read_class_names(None) is None
    assert read_class_names({"cat": 0, "ox": 2, "dog": 1}) == read_class_names({0: "cat", 1: "dog", 2: "ox"}) == NAMES
    assert read_class_names("imagenet")[281] == "tabby"


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("a.json", "[", "cannot read class names"),
        ("a.json", "3", "holds int"),
        ("a.json", json.dumps({"0": "cat", "2": "ox"}), "lacks some of 0 … 2"),
        ("a.json", json.dumps({"cat": 0, "dog": 0}), "or has one twice"),
        ("a.json", json.dumps({"x": "cat"}), "must map an index"),
        ("a.csv", "cat,dog\nox,cow\n", "no column of indices"),
        (None, "", "cannot read class names"),
    ],
)
def test_what_is_none(file: str | None, text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / (file or "none.json")
    if file:
        path.write_text(text)
    with pytest.raises(OptionError, match=message):
        read_class_names(path)
