"""What the commands share: options, output, progress."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from seewhy.errors import OptionError

if TYPE_CHECKING:
    from rich.progress import Progress

    from seewhy.models.adapter import VisionModel

DEFAULT_MODEL = "efficientnet_lite0"

Images = Annotated[list[Path], typer.Argument(help="Photos, or folders of photos.", show_default=False)]
Model = Annotated[str, typer.Option("--model", "-m", help="Model: a name of `seewhy models`, or a checkpoint's path.")]
Architecture = Annotated[str | None, typer.Option(help="What a checkpoint file fits, e.g. timm/vit_small_patch16_224.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, mps …; default: the best there is.")]
Methods = Annotated[list[str] | None, typer.Option("--method", "-M", help="A name of `seewhy methods`; may repeat.")]
Targets = Annotated[
    list[str] | None,
    typer.Option(
        "--target",
        "-t",
        help="Class name or number, top-2 (the class ranked second), embedding-sum, embedding-norm, "
        "or truth (the name of the image's folder); may repeat.",
    ),
]
Top = Annotated[int | None, typer.Option("--top", min=1, help="Explain each of the model's N best classes.")]
Concept = Annotated[Path | None, typer.Option(help="Explain likeness to a concept: a folder of example images.")]
Reference = Annotated[Path | None, typer.Option(help="Explain likeness to one reference image.")]
Measure = Annotated[str, typer.Option(help="Likeness for --concept and --reference: dot, cosine or l2.")]
LayerName = Annotated[str | None, typer.Option("--layer", help="Layer, by dotted name (see `seewhy info MODEL`).")]
Options = Annotated[list[str] | None, typer.Option("--option", "-O", help="name=value, e.g. n_samples=10; may repeat.")]
MaxPixels = Annotated[int, typer.Option(help="The largest image that is decoded.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, to standard output.")]
Out = Annotated[Path, typer.Option("--out", "-o", help="Folder for the results.")]


def load(name: str, architecture: str | None, device: str | None) -> VisionModel:
    """The model that the options name."""
    from seewhy.models.load import load_model

    return load_model(name, architecture=architecture, device=device)


def all_images(given: Sequence[Path]) -> list[Path]:
    """Files as given, folders spread out."""
    from seewhy.core.images import image_paths

    return [path for item in given for path in (image_paths(item) if item.is_dir() else [item])]


def configured(
    model: VisionModel,
    names: Sequence[str] | None,
    layer: str | None,
    options: Sequence[str] | None,
    presets: dict[str, dict[str, Any]] | None = None,
) -> list:
    """The methods asked for, each with those of the options that it has, over its presets."""
    from seewhy.core.options import options_of
    from seewhy.methods import METHODS
    from seewhy.methods.factory import as_method

    given = parse_options(options, layer)
    tools, used = [], set()
    for name in names or [as_method(model).card.name]:
        cls = METHODS[name]
        own = {key: value for key, value in given.items() if key in options_of(cls)}
        used |= set(own)
        tools.append(as_method(model, cls, **{**(presets or {}).get(name, {}), **own}))
    unused = sorted(set(given) - used)
    if unused:
        known = sorted({o for tool in tools for o in options_of(type(tool))})
        raise OptionError(f"none of these methods has an option {unused[0]!r}; they have: {', '.join(known) or 'none'}")
    return tools


def parse_options(options: Sequence[str] | None, layer: str | None = None) -> dict[str, Any]:
    """`["n_samples=10"]` as `{"n_samples": 10}`; values are Python literals where they can be, else text."""
    found: dict[str, Any] = {"layer": layer} if layer is not None else {}
    for option in options or ():
        name, equals, value = option.partition("=")
        if not equals:
            raise OptionError(f"{option!r} is not name=value; write for example -O n_samples=10")
        try:
            found[name.strip()] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            found[name.strip()] = value
    return found


def all_targets(
    model: VisionModel,
    words: Sequence[str] | None,
    top: int | None,
    concept: Path | None,
    reference: Path | None,
    measure: str,
) -> list:
    """The targets asked for; the model's own answer where nothing is asked."""
    from seewhy import targets

    found: list = [*(words or ()), *targets.top(top or 0)]
    if concept is not None:
        found.append(targets.concept(model, concept, measure=measure, name=f"concept {concept.name}"))
    if reference is not None:
        found.append(targets.reference(model, reference, measure=measure, name=f"like {reference.name}"))
    return found or [None]


def numbered(names: Iterable[str]) -> list[str]:
    """The names, each later one that repeats with its number behind it."""
    seen: dict[str, int] = {}
    found = []
    for name in names:
        count = seen[name] = seen.get(name, 0) + 1
        found.append(name if count == 1 else f"{name}-{count}")
    return found


def slug(text: str) -> str:
    """A short file name."""
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")[:48] or "map"


def bars() -> Progress:
    """Bars on standard error, which are gone when the work is done; none where that is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


def progress(items: Iterable, total: int, label: str) -> Iterator:
    """A bar while more than one item is worked on."""
    if total < 2:
        yield from items
        return
    with bars() as shown:
        task = shown.add_task(label, total=total)
        for item in items:
            yield item
            shown.advance(task)


def figure_path(path: Path, *others: str) -> Path:
    """The path of a picture that is to be written, or an error before the work is done.

    Raises:
        OptionError: it is a folder, or its name does not end as a picture's (or one of `others`) does.
    """
    from PIL import Image

    Image.init()
    known = [end for end, kind in Image.registered_extensions().items() if kind in Image.SAVE]
    if path.is_dir() or path.suffix.lower() not in (*known, *others):
        raise OptionError(f"{path} is no name for the figure; end it with {', '.join(('.png', '.jpg', *others))}")
    return path


def report_error(source: object, error: str) -> None:
    """One line on standard error that names the photo once."""
    typer.echo(f"error: {error}" if error.startswith(str(source)) else f"error: {source}: {error}", err=True)


def print_table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table as wide as the terminal; into a file or another program each row is one line."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    lines = list(rows)
    if not Console().is_terminal:
        widths = [max(map(len, column)) for column in zip(headers, *lines, strict=True)]
        for line in (headers, *lines):
            typer.echo("  ".join(map(str.ljust, line, widths)).rstrip())
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    for i, header in enumerate(headers):
        table.add_column(header, no_wrap=i == 0, overflow="fold")
    for line in lines:
        table.add_row(*map(escape, line))
    Console().print(table)


def print_cards(
    cards: list[dict[str, Any]], headers: Sequence[str], row: Callable[[dict[str, Any]], Sequence[str]], as_json: bool
) -> None:
    """Cards as JSON, as a table with a row for each, or, if it is one, with all that it says."""
    if as_json:
        print_json(cards)
    elif len(cards) == 1:
        print_card(cards[0])
    else:
        print_table(headers, map(row, cards))


def print_card(card: dict[str, Any]) -> None:
    """Everything about one method or metric: how it is computed, its options, its source."""
    typer.echo(f"{card['name']}: {card['title']}\n{card['summary']}\n\n{card['about']}\n")
    typer.echo(f"needs: {', '.join(card['needs']) or 'nothing more'}\nsource: {card['citation']}")
    if card["options"]:
        typer.echo("options:")
    for name, option in card["options"].items():
        choices = f" ({', '.join(map(str, option['choices']))})" if option["choices"] else ""
        typer.echo(f"  {name}={option['default']}  {option['help']}{choices}")


def option_cards(cls: type) -> dict[str, dict[str, Any]]:
    """The options of a method or metric as a card shows them."""
    from seewhy.core.options import options_of

    return {
        name: {"default": field.default, **{key: field.metadata[key] for key in ("help", "choices")}}
        for name, field in options_of(cls).items()
    }


def print_json(value: Any) -> None:
    """JSON on standard output."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False, default=str))
