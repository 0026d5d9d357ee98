"""What installing and importing seewhy promises."""

from __future__ import annotations

import ast
import csv
import importlib.metadata
import subprocess
import sys
from collections import Counter
from pathlib import Path

import jaxtyping
import pytest
import torch

import seewhy
from seewhy.core.imagenet import imagenet_classes, imagenet_wnids
from seewhy.core.maps import is_constant, mean_ranks

HEAVY = {"transformers", "timm", "torchvision", "open_clip", "matplotlib", "typer", "rich", "captum", "skimage"}


def test_importing_seewhy_imports_nothing_heavy():
    code = "import sys, seewhy; print(*{name.split('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not HEAVY & set(done.stdout.split())


def test_version_is_the_installed_one():
    assert seewhy.__version__ == importlib.metadata.version("seewhy"), "stale install: pip install -e ."


def test_signatures_are_checked_in_tests():
    with pytest.raises(jaxtyping.TypeCheckError):
        mean_ranks(torch.zeros(3))  # one dimension where two are declared
    with pytest.raises(jaxtyping.TypeCheckError):
        is_constant(maps=[[0.0]])


def test_imagenet_has_1000_different_classes():
    assert len(set(imagenet_classes())) == len(imagenet_classes()) == 1000
    assert len(set(imagenet_wnids())) == len(imagenet_wnids()) == 1000
    assert all(name == name.strip() != "" for name in imagenet_classes())
    assert imagenet_classes()[281] == "tabby"
    assert imagenet_wnids()[281] == "n02123045"


def test_imagenet_order_is_torchvisions():
    from torchvision.models import ResNet50_Weights

    theirs = ResNet50_Weights.DEFAULT.meta["categories"]
    # where one lemma names two classes, each tells them apart in its own way
    differ = [(i, ours) for i, ours in enumerate(imagenet_classes()) if ours != theirs[i]]
    assert differ == [
        (134, "crane (bird)"),
        (517, "crane (machine)"),
        (638, "maillot (tights)"),
        (639, "maillot (tank suit)"),
    ]


def test_imagenet_ids_are_timms():
    from timm.data import ImageNetInfo

    info = ImageNetInfo("imagenet-1k")
    assert imagenet_wnids() == tuple(info.label_names())
    for name, lemmas in zip(imagenet_classes(), info.label_descriptions(), strict=True):
        assert name.split(" (")[0] == lemmas.split(", ")[0]


def test_imagenet_names_are_those_of_the_shared_photos(shared_data: Path):
    with (shared_data / "photos" / "photos.csv").open(newline="") as file:  # codespell:ignore
        for row in csv.DictReader(file):
            assert imagenet_classes()[int(row["imagenet_index"])] == row["label"]


def test_no_two_test_files_share_a_name() -> None:
    """pytest imports test files by their bare names: the second of a name breaks the collection of the first."""
    names = [path.name for path in Path(__file__).parent.rglob("test_*.py")]
    assert len(set(names)) == len(names)


def test_no_two_classes_share_a_name() -> None:
    """A name in a message, a traceback or a search means one class."""
    files = (Path(__file__).parent.parent / "src").rglob("*.py")
    nodes = (node for path in files for node in ast.walk(ast.parse(path.read_text())))
    counts = Counter(node.name for node in nodes if isinstance(node, ast.ClassDef))
    assert len(counts) > 100
    assert [name for name, count in counts.items() if count > 1] == []
