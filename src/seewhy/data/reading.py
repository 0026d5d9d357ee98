"""Shared by the readers of layouts on disk: images as stored, lists, tables, JSON, options."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from seewhy.core.deep import DeepImage
from seewhy.core.images import ImageLike, load_image, read_image as core_read_image
from seewhy.errors import DataError, ImageError, OptionError


def read_image(path: Path) -> Image.Image:
    """Read an image as RGB, as stored: annotations are about stored pixels, so an EXIF orientation is not applied.

    Raises:
        ImageError: When it is missing or broken.
    """
    return load_image(path, upright=False)


def read_both(source: ImageLike, upright: bool = True) -> tuple[Image.Image, DeepImage | None]:
    """Read an image as RGB for people, and with all its levels where 8-bit RGB does not hold them.

    Raises:
        ImageError: When it is missing or broken.
    """
    read = core_read_image(source, channels=None, upright=upright)
    if not isinstance(read, DeepImage):
        return read, None
    try:
        return read.rgb(), read
    except ImageError:  # other channels than RGB, or a window that only the model's preprocessing knows
        return read.view(), read


def read_lines(path: Path) -> list[str]:
    """Read the lines of a list that are not empty.

    Raises:
        DataError: When it cannot be read.
    """
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read ({error}); check the file") from error


def check_unique(names: Iterable[str], path: Path) -> tuple[str, ...]:
    """Return the names that a list holds, each once.

    Args:
        names: The names.
        path: The list.

    Raises:
        DataError: When one occurs twice: its results could not be told apart.
    """
    unique = tuple(names)
    if len(set(unique)) < len(unique):
        twice = next(name for name, n in Counter(unique).items() if n > 1)
        raise DataError(f"{path} names {twice!r} twice; remove one of them")
    return unique


def read_choice(path: Path, ids: tuple[str, ...]) -> tuple[str, ...]:
    """Read which of a split's images are to be taken, in the split's order.

    Args:
        path: A list with an id or a position from 0 on each line; a first line that is neither is a heading.
        ids: The ids of the split.

    Raises:
        DataError: When it cannot be read, names one twice, or names none of the split.
    """
    lines = [line.strip(",; ") for line in read_lines(path)]
    known = set(ids)

    def find(line: str) -> str | None:
        if line in known:
            return line
        return ids[int(line)] if line.isascii() and line.isdigit() and int(line) < len(ids) else None

    chosen = [find(line) for line in lines]
    if lines and chosen[0] is None:
        lines, chosen = lines[1:], chosen[1:]
    if None in chosen or not chosen:
        wrong = lines[chosen.index(None)] if chosen else "nothing"
        raise DataError(f"{path} names {wrong!r}, which is no image of the split and no position; correct the list")
    taken = set(check_unique((name for name in chosen if name), path))
    return tuple(name for name in ids if name in taken)


def read_table(path: Path, *columns: str) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the lines of a CSV file with their numbers, as {column: text}; missing cells are empty.

    Args:
        path: The file.
        *columns: Those that it must have.

    Yields:
        The number of a line and its cells by column.

    Raises:
        DataError: When it cannot be read, or lacks one of the columns.
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
    """Read a JSON file; the options are those of `json.load`.

    Raises:
        DataError: When it cannot be read.
    """
    try:
        with path.open(encoding="utf-8") as file:
            return json.load(file, **options)
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{path} cannot be read as JSON ({error}); get the file again") from error


def check_choice(name: str, value: Any, choices: tuple[Any, ...]) -> None:
    """Check that an option has one of its values.

    Raises:
        OptionError: When it does not.
    """
    if value not in choices:
        raise OptionError(f"{name}={value!r} is not one of {', '.join(map(str, choices))}; choose one of them")
