"""Plans that come with the package: the tables of papers, and what runs offline.

A preset is a plan; its leading comment says what it is, and after "needs:" what a person must bring.
"""

from __future__ import annotations

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
        name: Name of the preset.
        about: What it is, in a sentence or two.
        needs: What must be given to run it; empty where nothing is missing.
        text: The plan's text.
    """

    name: str
    about: str
    needs: str
    text: str


def list_presets() -> list[Preset]:
    """Return all presets, by name."""
    return [_read_preset(path) for path in sorted(FOLDER.glob("*.toml"))]


def _read_preset(path: Path) -> Preset:
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
    """Return the text of a plan, with what was changed on the command line.

    Args:
        plan: A file, or else the name of a preset.
        root: Folder of the data.
        n: Number of samples.
        sources: `LABEL=WHERE`: what the model of that label is loaded from.
        settings: `key=value` with dots for tables and values as in TOML (`protocol.batch_size=4`); a value that is not
            TOML is a string.

    Raises:
        OptionError: When the file cannot be read, or a change cannot be applied.
        UnknownNameError: When it is neither a file nor a preset.
    """
    text = _read(plan)
    changes: list[tuple[str, Any]] = []
    if root is not None:
        changes.append(("data.root", str(root)))
    if n is not None:
        changes.append(("data.n", n))
    changes += [_parse_setting(setting) for setting in settings]
    if not changes and not sources:
        return text
    content = parse_toml(text, str(plan))
    for key, value in changes:
        _set_key(content, key, value)
    for source in sources:
        _set_source(content, source)
    comments = [
        f"{plan}, changed on the command line:",
        *(f"{key} = {format_value(v)}" for key, v in changes),
        *sources,
    ]
    return "".join(f"# {comment}\n" for comment in comments) + dump_toml(content)


def _read(plan: str | Path) -> str:
    if Path(plan).is_file():
        try:
            return Path(plan).read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise OptionError(f"cannot read the plan {str(plan)!r} ({error}); pass the path of a TOML file") from None
    by_name = {preset.name: preset for preset in list_presets()}
    if str(plan) not in by_name:
        raise UnknownNameError(
            "plan (neither a file nor a preset)", str(plan), by_name, "`seewhy bench presets` lists them"
        )
    return by_name[str(plan)].text


def _parse_setting(setting: str) -> tuple[str, Any]:
    key, equals, value = setting.partition("=")
    if not equals or not key.strip():
        raise OptionError(
            f"cannot parse the setting {setting!r}; write key=value, for example --set protocol.batch_size=4"
        )
    try:
        return key.strip(), parse_toml(f"value = {value}")["value"]
    except OptionError:
        return key.strip(), value


def _set_key(content: dict[str, Any], key: str, value: Any) -> None:
    *tables, last = key.split(".")
    for name in tables:
        content = content.setdefault(name, {})
        if not isinstance(content, dict):
            raise OptionError(f"cannot set {key}: {name} is not a table in this plan; set {name} itself")
    content[last] = value


def _set_source(content: dict[str, Any], assignment: str) -> None:
    label, equals, where = assignment.partition("=")
    models = [{"name": m} if isinstance(m, str) else m for m in content.get("models", ())]
    entry = next((m for m in models if label in (m.get("label"), m.get("name"))), None)
    if entry is None or not equals:
        names = ", ".join(str(m.get("label") or m.get("name")) for m in models)
        raise OptionError(
            f"{assignment!r} does not name a model of the plan; write --source LABEL=PATH with one of {names}"
        )
    entry["source"] = where
    content["models"] = models
