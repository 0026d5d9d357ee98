"""What the readers of layouts on disk share: pictures as stored, lists, tables, JSON, options."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from seewhy.core.images import load_image
from seewhy.errors import DataError, OptionError


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


def once_each(names: Iterable[str], path: Path) -> tuple[str, ...]:
    """The names, or a `DataError` for one that the list has twice: its results could not be told apart."""
    names = tuple(names)
    if len(set(names)) < len(names):
        twice = next(name for name, n in Counter(names).items() if n > 1)
        raise DataError(f"{path} names {twice!r} twice; remove one of them")
    return names


def table(path: Path, *columns: str) -> Iterator[tuple[int, dict[str, str]]]:
    """The lines of a CSV file with their numbers, as {column: text}; missing cells are empty.

    Raises:
        DataError: it cannot be read, or lacks one of the columns.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, restval="")
            if missing := [column for column in columns if column not in (reader.fieldnames or ())]:
                raise DataError(
                    f"{path} has the columns {', '.join(reader.fieldnames or ()) or 'none'}; it needs "
                    f"{', '.join(missing)}, separated by commas"
                )
            for row in reader:
                row.pop(None, None)  # cells beyond the last column
                yield reader.line_num, row
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read ({error}); save it as CSV in UTF-8") from error


def read_json(path: Path, **options: Any) -> Any:
    """A JSON file."""
    try:
        with path.open(encoding="utf-8") as file:
            return json.load(file, **options)
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{path} is no readable JSON ({error}); get the file again") from error


def one_of(name: str, value: Any, choices: tuple) -> None:
    """Raise `OptionError` unless the value is one of the choices."""
    if value not in choices:
        raise OptionError(f"{name}={value!r} is not one of {', '.join(map(str, choices))}; choose one of them")
