"""Print constraints that pin each direct requirement to the oldest version that pyproject.toml declares.

    python scripts/oldest.py timm hf > oldest.txt
    pip install -c oldest.txt '.[timm,hf]'

Arguments are extras whose requirements are included. PyTorch is left out: `constraints.txt` pins it, because its
declared oldest version (2.6) is not built for every Python, and installing it would bring the CUDA build.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1] / "pyproject.toml"
PINNED_ELSEWHERE = {"torch", "torchvision"}  # torchvision fits one torch only


def lower_bounds(extras: list[str]) -> list[str]:
    """Return `name==version` for every requirement of the library and of the extras, sorted."""
    project = tomllib.loads(PROJECT.read_text("utf-8"))["project"]
    requirements, waiting, seen = list(project["dependencies"]), list(extras), set(extras)
    while waiting:
        for requirement in project["optional-dependencies"][waiting.pop()]:
            own = re.fullmatch(r"seewhy\[(.*)\]", requirement)
            nested = set(own[1].split(",")) - seen if own else set()
            seen |= nested
            waiting += nested
            requirements += [] if own else [requirement]
    return sorted({_oldest(requirement) for requirement in requirements} - {""})


def _oldest(requirement: str) -> str:
    name, version = re.fullmatch(r"([\w.-]+)(?:\[.*\])?(?:>=|==)([\w.]+)(?:,.*)?", requirement).groups()
    return "" if name in PINNED_ELSEWHERE else f"{name}=={version}"


if __name__ == "__main__":
    print(*lower_bounds(sys.argv[1:]), sep="\n")
