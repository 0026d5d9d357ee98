"""Users' type checkers know the public API: right uses pass, mistakes are found where they are."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
FILES = [HERE / "front_door.py", HERE / "mistakes.py"]
MISTAKES = {number for number, line in enumerate(FILES[1].read_text("utf-8").splitlines(), 1) if "# error" in line}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def mypy() -> set[tuple[str, int, str]]:
    pytest.importorskip("mypy")
    command = [sys.executable, "-m", "mypy", "--follow-imports=silent", "--config-file=", "--no-error-summary"]
    shown = subprocess.run([*command, *map(str, FILES)], capture_output=True, text=True).stdout
    found = re.findall(r"^(?:.*[/\\])?(\w+\.py):(\d+): error: (.*)$", shown, re.MULTILINE)
    return {(name, int(line), text) for name, line, text in found}


def pyright() -> set[tuple[str, int, str]]:
    pytest.importorskip("pyright")
    command = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable]
    shown = subprocess.run([*command, *map(str, FILES)], capture_output=True, text=True).stdout
    return {
        (Path(each["file"]).name, each["range"]["start"]["line"] + 1, each["message"])
        for each in json.loads(shown)["generalDiagnostics"]
        if each["severity"] == "error"
    }


@pytest.mark.parametrize("checker", [mypy, pyright])
def test_right_uses_pass_and_mistakes_are_found(checker) -> None:
    found = checker()
    assert not [each for each in found if each[0] == "front_door.py"]
    assert {line for name, line, _ in found if name == "mistakes.py"} == MISTAKES
