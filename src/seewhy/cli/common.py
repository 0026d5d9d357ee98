"""What the commands share: options, output, progress."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from seewhy.errors import OptionError

if TYPE_CHECKING:
    from seewhy.models.adapter import VisionModel

DEFAULT_MODEL = "efficientnet_lite0"

Images = Annotated[list[Path], typer.Argument(help="Photos, or folders of photos.", show_default=False)]
Model = Annotated[str, typer.Option("--model", "-m", help="Model: a name of `seewhy models`, or a checkpoint's path.")]
Architecture = Annotated[str | None, typer.Option(help="What a checkpoint file fits, e.g. timm/vit_small_patch16_224.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, mps …; default: the best there is.")]
Methods = Annotated[list[str] | None, typer.Option("--method", "-M", help="A name of `seewhy methods`; may repeat.")]
Targets = Annotated[list[str] | None, typer.Option(
    "--target", "-t", help="Class name or number, top-1, top-3 (the three best), embedding-sum, "
    "embedding-norm, or truth (the name of the photo's folder); may repeat.")]
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
    from seewhy.images import image_paths

    return [path for item in given for path in (image_paths(item) if item.is_dir() else [item])]


def configured(
    model: VisionModel, names: Sequence[str] | None, layer: str | None, options: Sequence[str] | None,
    presets: dict[str, dict[str, Any]] | None = None,
) -> list:
    """The methods asked for, each with those of the options that it has, over its presets."""
    from seewhy.explainer import as_method
    from seewhy.methods import METHODS
    from seewhy.registry import options_of

    given = parse_options(options, layer)
    tools, used = [], set()
    for name in names or [as_method(model).card.name]:
        cls = METHODS.get(name)
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


def all_targets(model: VisionModel, words: Sequence[str] | None, concept: Path | None, reference: Path | None,
                measure: str) -> list:
    """The targets asked for; the model's own answer where nothing is asked."""
    from seewhy import targets

    found: list = list(words or ())
    if concept is not None:
        found.append(targets.concept(model, concept, measure=measure, name=f"concept {concept.name}"))
    if reference is not None:
        found.append(targets.reference(model, reference, measure=measure, name=f"like {reference.name}"))
    return found or [None]


def slug(text: str) -> str:
    """A short file name."""
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")[:48] or "map"


def progress(items: Iterable, total: int, label: str) -> Iterator:
    """A bar on standard error while more than one item is worked on."""
    if total < 2:
        yield from items
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(label), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=total)
        for item in items:
            yield item
            bar.advance(task)


def print_json(value: Any) -> None:
    """JSON on standard output."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False, default=str))
