"""Plans that come with the package: the tables of papers, and what runs offline.

A preset is a plan; its leading comment says what it is, and after "needs:" what a person must bring.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seewhy.bench.toml import dump_toml, format_value, parse_toml
from seewhy.errors import OptionError, UnknownNameError

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Preset:
    """A plan of the package.

    Attributes:
        about: what it is, in a sentence or two.
        needs: what must be given to run it; empty where nothing is missing.
    """

    name: str
    about: str
    needs: str
    text: str


def presets() -> list[Preset]:
    """All presets, by name."""
    return [_preset(path) for path in sorted(FOLDER.glob("*.toml"))]


def _preset(path: Path) -> Preset:
    text = path.read_text("utf-8")
    lines = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.lstrip("# ").strip())
    about, _, needs = " ".join(lines).partition("needs:")
    return Preset(path.stem, about.strip(), needs.strip(), text)


def plan_text(
    plan: str | Path,
    *,
    root: str | Path | None = None,
    n: int | None = None,
    sources: Sequence[str] = (),
    settings: Sequence[str] = (),
) -> str:
    """The text of a plan: a file, or else the preset of that name; with what was changed on the command line.

    Args:
        root, n: of `[data]`.
        sources: `LABEL=WHERE`: what the model of that label is loaded from.
        settings: `key=value` with dots for tables and values as in TOML (`protocol.batch_size=4`); a value that is no
            TOML is text.

    Raises:
        OptionError: the file cannot be read, or a change that cannot be made.
        UnknownNameError: neither a file nor a preset.
    """
    text = _read(plan)
    given = [("data.root", str(root))] if root is not None else []
    given += [("data.n", n)] if n is not None else []
    given += [_setting(setting) for setting in settings]
    if not given and not sources:
        return text
    content = parse_toml(text, str(plan))
    for key, value in given:
        _put(content, key, value)
    for source in sources:
        _source(content, source)
    said = "".join(f"# {key} = {format_value(value)}\n" for key, value in given) + "".join(f"# {s}\n" for s in sources)
    return f"# {plan}, changed on the command line:\n{said}{dump_toml(content)}"


def _read(plan: str | Path) -> str:
    if Path(plan).is_file():
        try:
            return Path(plan).read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise OptionError(f"the plan {str(plan)!r} cannot be read ({error}); give a TOML file") from None
    known = {preset.name: preset for preset in presets()}
    if str(plan) not in known:
        raise UnknownNameError(
            "plan (neither a file nor a preset)", str(plan), known, "`seewhy bench presets` lists them"
        )
    return known[str(plan)].text


def _setting(setting: str) -> tuple[str, Any]:
    key, equals, value = setting.partition("=")
    if not equals or not key.strip():
        raise OptionError(f"{setting!r} is not key=value; write for example --set protocol.batch_size=4")
    try:
        return key.strip(), tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return key.strip(), value


def _put(content: dict[str, Any], key: str, value: Any) -> None:
    *tables, last = key.split(".")
    for name in tables:
        content = content.setdefault(name, {})
        if not isinstance(content, dict):
            raise OptionError(f"{name} is no table in this plan, so {key} cannot be set; give {name} itself")
    content[last] = value


def _source(content: dict[str, Any], given: str) -> None:
    label, equals, where = given.partition("=")
    models = [{"name": m} if isinstance(m, str) else m for m in content.get("models", ())]
    entry = next((m for m in models if label in (m.get("label"), m.get("name"))), None)
    if entry is None or not equals:
        names = ", ".join(str(m.get("label") or m.get("name")) for m in models)
        raise OptionError(f"{given!r} names no model of the plan; write --source LABEL=PATH with one of {names}")
    entry["source"] = where
    content["models"] = models
