"""Read and write the TOML of plans."""

from __future__ import annotations

import hashlib
import json
import tomllib
from typing import Any

from seewhy.errors import OptionError


def parse_toml(text: str, name: str = "plan") -> dict[str, Any]:
    """Parse TOML text.

    Args:
        text: The text.
        name: Name of the file, for the message.

    Raises:
        OptionError: When it is not valid TOML; the message has the line.
    """
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise OptionError(f"{name} is not valid TOML: {error}; correct that line") from None


DIGEST = "toml:"
"""Begins every digest; manifests of earlier versions have digests without it, which cannot be compared."""


def plan_digest(text: str) -> str:
    """Return a digest of what a plan says, whatever its spaces, comments and published figures."""
    content = {key: value for key, value in tomllib.loads(text).items() if key != "published"}
    return DIGEST + hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:16]


def dump_toml(content: dict[str, Any]) -> str:
    """Write a plan as TOML text."""
    lines = [f"{_format_key(key)} = {format_value(value)}" for key, value in content.items() if not _is_table(value)]
    for key, table in content.items():
        if _is_table(table):
            lines += ["", f"[{_format_key(key)}]"]
            lines += [f"{_format_key(name)} = {format_value(value)}" for name, value in table.items()]
    return "\n".join(lines) + "\n"


def _is_table(value: Any) -> bool:
    return isinstance(value, dict)


def _format_key(key: str) -> str:
    bare = key.replace("_", "").replace("-", "").isalnum() and key.isascii()
    return key if bare else format_value(key)


def format_value(value: Any) -> str:
    """Write a value as TOML, tables inline."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_format_key(key)} = {format_value(entry)}" for key, entry in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(format_value(entry) for entry in value) + "]"
    escapes = {ord('"'): '\\"', ord("\\"): "\\\\", **{code: f"\\u{code:04x}" for code in [*range(32), 127]}}
    return '"' + str(value).translate(escapes) + '"'
