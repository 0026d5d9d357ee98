"""Shared parts of the commands: options, output, progress."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from seewhy.cli.loading import MODEL_HELP, Loading
from seewhy.errors import ImageError, OptionError, SeewhyError

if TYPE_CHECKING:  # nothing heavy is imported before a command runs
    from seewhy.methods.base import Method
    from seewhy.models.adapter import VisionModel
    from seewhy.targets import TargetLike

T = TypeVar("T")

DEFAULT_MODEL = "efficientnet_lite0"
DEFAULT_MAX_PIXELS = 100_000_000
MOST_BYTES = 200

# text, not paths: an unset variable gives an empty one, which as a path would be the current folder
Images = Annotated[list[str], typer.Argument(help="Images, or folders of images.", show_default=False)]
Model = Annotated[str, typer.Option("--model", "-m", help=MODEL_HELP)]
ZeroShot = Annotated[
    str | None,
    typer.Option(help="Classes of a model of images and texts: texts with commas between them, 'cat, dog'."),
]
Templates = Annotated[
    list[str] | None,
    typer.Option("--template", help="What the texts are put into, 'a photo of a {}.'; several are averaged."),
]
Methods = Annotated[list[str] | None, typer.Option("--method", "-M", help="A name of `seewhy methods`; repeatable.")]
Targets = Annotated[
    list[str] | None,
    typer.Option(
        "--target",
        "-t",
        help="Class name or number, top-2 (the class ranked second), embedding-sum, embedding-norm, "
        "truth (the name of the image's folder), or for CLIP and SigLIP a text; repeatable.",
    ),
]
Top = Annotated[int | None, typer.Option("--top", min=1, help="Explain each of the model's N best classes.")]
Concept = Annotated[
    Path | None, typer.Option(help="Use similarity to a concept (a folder of example images) as the target.")
]
Reference = Annotated[Path | None, typer.Option(help="Use similarity to a reference image as the target.")]
Measure = Annotated[str, typer.Option(help="Similarity for --concept and --reference: dot, cosine or l2.")]
Against = Annotated[bool, typer.Option("--against", help="Explain what speaks against the target.")]
LayerName = Annotated[
    str | None, typer.Option("--layer", help="Layer, by dotted name (see `seewhy info MODEL`); a,b: the mean of both.")
]
Options = Annotated[list[str] | None, typer.Option("--option", "-O", help="name=value, e.g. n_samples=10; repeatable.")]
Weights = Annotated[
    Path | None, typer.Option(help="What `seewhy train` wrote for ala or abn; without --model its encoder is opened.")
]
MaxPixels = Annotated[int, typer.Option(help="Refuse to decode images larger than this.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, to standard output.")]
Out = Annotated[Path, typer.Option("--out", "-o", help="Folder for the results.")]


def expand_images(images: Sequence[str], one_by_one: bool = False) -> tuple[list[Path], int]:
    """Return files as they are, and the images of folders and of shell patterns; what has none is reported.

    Args:
        images: What stands on the command line.
        one_by_one: Whether a folder is one thing (the slices of a volume).

    Returns:
        The files, and the exit code of the first report.

    Raises:
        ImageError: There is no image at all.
    """
    from seewhy.core.images import image_paths, matching

    expanded: list[Path] = []
    problems: list[SeewhyError] = []
    for image in images:
        try:
            if not image.strip():
                raise ImageError("one of the images has an empty name; is a variable of your script not set?")
            is_folder = _is_folder(image)
            found = [] if is_folder and one_by_one else image_paths(image) if is_folder else matching(image)
            expanded += found or [Path(image)]
        except ImageError as error:
            problems.append(error)
    if problems and not expanded:
        raise problems[0]
    for problem in problems:
        typer.echo(f"error: {problem}", err=True)
    return expanded, problems[0].exit_code if problems else 0


def _is_folder(path: str) -> bool:
    try:
        return Path(path).is_dir()
    except (OSError, ValueError):  # a name that no file can have is told when it is opened
        return False


def configured_methods(
    model: VisionModel,
    names: Sequence[str] | None,
    layer: str | None,
    options: Sequence[str] | None,
    defaults: dict[str, dict[str, Any]] | None = None,
    weights: Path | None = None,
) -> list[Method]:
    """Return the methods, each with those of the options that it has.

    Args:
        model: The model that is to be explained.
        names: Names of methods; by default the one that suits the model.
        layer: Value of the option `layer`.
        options: More options, as `name=value`.
        defaults: Options of methods by name, for what is not given.
        weights: Value of the option `weights`; without names the method is the one that they are of.

    Raises:
        OptionError: When none of the methods has one of the options.
    """
    from seewhy.core.options import options_of
    from seewhy.methods import METHODS
    from seewhy.methods.factory import as_method

    values = parse_options(options, layer)
    if weights is not None:
        values["weights"] = str(weights)
        names = names or [trained_method(weights)]
    methods: list[Method] = []
    used: set[str] = set()
    for name in names or [as_method(model).card.name]:
        cls = METHODS[name]
        accepted = {key: value for key, value in values.items() if key in options_of(cls)}
        used |= set(accepted)
        methods.append(as_method(model, cls, **{**(defaults or {}).get(name, {}), **accepted}))
    unused = sorted(set(values) - used)
    if unused:
        available = sorted({option for method in methods for option in options_of(type(method))})
        raise OptionError(
            f"none of these methods has an option {unused[0]!r}; they have: {', '.join(available) or 'none'}"
        )
    return methods


def opened(
    loading: Loading, name: str, weights: Path | None, zero_shot: str | None, templates: Sequence[str] | None
) -> VisionModel:
    """Return the model that the options name; with weights and no model the one that they were fitted on."""
    if weights is not None and name == DEFAULT_MODEL:
        return loading.encoder(weights)
    return loading.model(name, zero_shot, templates)


def trained_method(weights: Path) -> str:
    """Return the name of the method that a folder of `seewhy train` is of."""
    from seewhy.methods.trained.fitted import Fitted

    return Fitted.load(weights).method


def parse_options(options: Sequence[str] | None, layer: str | None = None) -> dict[str, Any]:
    """Read `["n_samples=10"]` as `{"n_samples": 10}`; values are Python literals where they can be, else text."""
    values: dict[str, Any] = {}
    if layer is not None:
        values["layer"] = layer if "," not in layer else [name.strip() for name in layer.split(",")]
    for option in options or ():
        name, equals, value = option.partition("=")
        if not equals:
            raise OptionError(f"expected name=value, got {option!r}; write for example -O n_samples=10")
        try:
            values[name.strip()] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            values[name.strip()] = value
    return values


def requested_targets(
    model: VisionModel,
    words: Sequence[str] | None,
    top: int | None,
    concept: Path | None,
    reference: Path | None,
    measure: str,
    against: bool = False,
) -> list[TargetLike]:
    """Return the targets that the options name; by default the model's own answer."""
    from seewhy import targets

    requested: list[TargetLike] = [*(words or ()), *targets.top(top or 0)]
    if concept is not None:
        requested.append(targets.concept(model, concept, measure=measure, name=f"concept {concept.name}"))
    if reference is not None:
        requested.append(targets.reference(model, reference, measure=measure, name=f"like {reference.name}"))
    requested = requested or [None]
    return [targets.against(model, target) for target in requested] if against else requested


def number_repeats(names: Iterable[str]) -> list[str]:
    """Return the names, each that was there before with the first free number behind it."""
    taken: set[str] = set()
    numbered = []
    for name in names:
        count, free = 1, name
        while free in taken:
            count += 1
            free = f"{name}-{count}"
        taken.add(free)
        numbered.append(free)
    return numbered


def folder_names(paths: Iterable[Path]) -> list[str]:
    """Return a name for the results of each image: its own, as far as a folder can have it."""
    return number_repeats(_folder_name(path.stem) for path in paths)


def _folder_name(stem: str) -> str:
    """Leave out what would lead elsewhere (dots at the ends), is no character, or is too long."""
    text = stem.encode("utf-8", "replace").decode().replace("?", "_") if not stem.isprintable() else stem
    return text.strip(". ").encode()[:MOST_BYTES].decode(errors="ignore") or "image"


def slug(text: str) -> str:
    """Return a short file name."""
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")[:48] or "map"


def progress(items: Iterable[T], total: int, label: str) -> Iterator[T]:
    """Show a bar while more than one item is worked on (a `seewhy.core.progress.Progress`)."""
    from seewhy.core.progress import bars

    if total < 2:
        yield from items
        return
    with bars() as shown:
        task = shown.add_task(label, total=total)
        for item in items:
            yield item
            shown.advance(task)


def figure_path(path: Path, *others: str) -> Path:
    """Check the path of a figure before the work is done.

    Args:
        path: Where the figure is to be written.
        *others: Suffixes that are accepted beside those of images.

    Raises:
        OptionError: When it is a folder, or its suffix is not one of an image.
    """
    from PIL import Image

    Image.init()
    writable = [suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.SAVE]
    if path.is_dir() or path.suffix.lower() not in (*writable, *others):
        suffixes = ", ".join((".png", ".jpg", *others))
        raise OptionError(f"cannot write a figure to {path}; use a file name that ends with {suffixes}")
    return path


def report_error(source: object, error: str) -> None:
    """Print one line to standard error that names the image once."""
    typer.echo(f"error: {error}" if error.startswith(str(source)) else f"error: {source}: {error}", err=True)


def print_table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table as wide as the terminal; into a file or another program each row is one line."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    lines = list(rows)
    if not Console().is_terminal:
        widths = [max(map(len, column)) for column in zip(headers, *lines, strict=True)]
        for line in (headers, *lines):
            cells = [cell.ljust(width) for cell, width in zip(line, widths, strict=True)]
            typer.echo("  ".join(cells).rstrip())
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    for i, header in enumerate(headers):
        table.add_column(header, no_wrap=i == 0, overflow="fold")
    for line in lines:
        table.add_row(*map(escape, line))
    Console().print(table)


def print_cards(
    cards: Sequence[dict[str, Any]],
    headers: Sequence[str],
    row: Callable[[dict[str, Any]], Sequence[str]],
    as_json: bool,
) -> None:
    """Print cards as JSON, as a table with a row for each, or, if there is one, with all that it says."""
    if as_json:
        print_json(cards)
    elif len(cards) == 1:
        print_card(cards[0])
    else:
        print_table(headers, map(row, cards))


def print_card(card: dict[str, Any]) -> None:
    """Print everything about one method or metric: how it is computed, its options, its source."""
    typer.echo(f"{card['name']}: {card['title']}\n{card['summary']}\n\n{card['about']}\n")
    typer.echo(f"needs: {', '.join(card['needs']) or 'nothing more'}\nsource: {card['citation']}")
    if card["options"]:
        typer.echo("options:")
    for name, option in card["options"].items():
        choices = f" ({', '.join(map(str, option['choices']))})" if option["choices"] else ""
        typer.echo(f"  {name}={option['default']}  {option['help']}{choices}")


def option_cards(cls: type) -> dict[str, dict[str, Any]]:
    """Return the options of a method or metric as a card shows them."""
    from seewhy.core.options import options_of

    return {
        name: {"default": field.default, **{key: field.metadata[key] for key in ("help", "choices")}}
        for name, field in options_of(cls).items()
    }


def print_json(value: Any) -> None:
    """Print JSON to standard output."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False, default=str))
