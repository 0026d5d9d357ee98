"""What the readers of official layouts share: pictures as stored, lists, JSON, options."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from PIL import Image

from seewhy.errors import DataError, OptionError
from seewhy.images import load_image


def photo(path: Path) -> Image.Image:
    """The picture, RGB, as stored: annotations are about stored pixels, so an EXIF orientation is not applied.

    Raises:
        ImageError: it is missing or broken.
    """
    return load_image(path, upright=False)


def lines(path: Path) -> list[str]:
    """The lines of a list that are not empty."""
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read ({error}); check the file") from error


def read_json(path: Path, **options: Any) -> Any:
    """A JSON file."""
    try:
        with path.open(encoding="utf-8") as file:
            return json.load(file, **options)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is no readable JSON ({error}); get the file again") from error


def one_of(name: str, value: Any, choices: tuple) -> None:
    """Raise `OptionError` unless the value is one of the choices."""
    if value not in choices:
        raise OptionError(f"{name}={value!r} is not one of {', '.join(map(str, choices))}; choose one of them")
