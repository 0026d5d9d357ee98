"""The options with which commands open a model: written once, and given to each command that has `loading`."""

from __future__ import annotations

import functools
import inspect
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from seewhy.errors import ModelError, OptionError

if TYPE_CHECKING:  # nothing heavy is imported before a command runs
    from seewhy.models.adapter import VisionModel

MODEL_HELP = (
    "A name of `seewhy models`, the path of a checkpoint, or FILE.py:NAME: a function (or module) of your own that "
    "gives the torch module; the file is run."
)
Device = Annotated[str | None, typer.Option(help="cpu, cuda, mps …; default: the fastest available.")]
OWN_CODE = re.compile(r"(?P<file>.+\.py):(?P<name>\w+)")


@dataclass(frozen=True)
class Loading:
    """How a model is opened; each field is an option of the command line, and its annotation the option's help."""

    architecture: Annotated[
        str | None, typer.Option(help="The architecture of a checkpoint file, e.g. timm/vit_small_patch16_224.")
    ] = None
    head: Annotated[
        Path | None,
        typer.Option(
            help="A linear classifier for the model: DINO's, DINOv2's, or a probe (.pth, .safetensors, .npz)."
        ),
    ] = None
    class_names: Annotated[
        str | None,
        typer.Option(help="A file of class names: JSON (list, dict, class_to_idx), CSV or text; or imagenet."),
    ] = None
    mean: Annotated[str | None, typer.Option(help="Mean of the input, for all or each channel: 0.5,0.5,0.5.")] = None
    std: Annotated[str | None, typer.Option(help="Standard deviation of the input, as --mean.")] = None
    size: Annotated[str | None, typer.Option(help="Side, or ROWSxCOLS, of the input.")] = None
    crop: Annotated[
        str | None, typer.Option(help="center, squash, none, or the share of the resized image that is kept: 0.875.")
    ] = None
    levels: Annotated[
        str | None, typer.Option(help="Which values of images with more than 8 bits are black and white: 0:4095.")
    ] = None
    device: Device = None

    def model(self, name: str, zero_shot: str | None = None, templates: Sequence[str] | None = None) -> VisionModel:
        """Open the model that the options name.

        Raises:
            SeewhyError: As `seewhy.load_model`; OptionError for an option that cannot be read.
        """
        from seewhy.models.load import load_model

        texts = _texts(zero_shot, templates)
        changes = self._changes()
        own = OWN_CODE.fullmatch(name)
        if own and not Path(name).exists():
            return self._own(Path(own["file"]), own["name"], changes)
        return load_model(
            name,
            architecture=self.architecture,
            head=self.head,
            class_names=self.class_names,
            preprocess=changes or None,
            device=self.device,
            **texts,
        )

    def base(self, name: str) -> dict[str, Any] | None:
        """Return how the model is opened, for files that need it again; None for a person's own module."""
        path = Path(name).expanduser()
        own = OWN_CODE.fullmatch(name)
        if own and not path.exists():
            return None
        known = {"name": str(path.resolve()) if path.exists() else name, "architecture": self.architecture}
        return {**known, "options": {}, "size": self._changes().get("size")}

    def encoder(self, weights: Path) -> VisionModel:
        """Open the model that a trained explainer was fitted on, as it was opened then.

        Args:
            weights: The folder that `seewhy train` wrote.

        Raises:
            SeewhyError: As `seewhy.load_model`; OptionError if the folder does not say how.
        """
        from seewhy.methods.trained.fitted import Fitted
        from seewhy.models.load import load_model

        opened = dict(Fitted.load(weights).training.get("encoder") or {})
        if "name" not in opened:
            raise OptionError(f"{weights} does not say how its encoder is opened; name it with --model")
        changes = {**opened.pop("preprocess", {}), **self._changes()}
        given = {"head": self.head, "class_names": self.class_names, "device": self.device}
        return load_model(**{**opened, **given}, preprocess=changes or None)

    def _changes(self) -> dict[str, Any]:
        """Return what the options say of the preprocessing."""
        changes: dict[str, Any] = {"mean": _numbers("mean", self.mean), "std": _numbers("std", self.std)}
        changes["size"] = None if self.size is None else _size(self.size)
        changes["levels"] = _numbers("levels", self.levels, ":", 2)
        if self.crop is not None:
            is_share = re.fullmatch(r"[01]?\.?\d+", self.crop)
            changes["crop"] = float(self.crop) if is_share else self.crop
        return {name: value for name, value in changes.items() if value is not None}

    def _own(self, file: Path, name: str, changes: dict[str, Any]) -> VisionModel:
        """Run a person's own file, and wrap the module that it gives."""
        from seewhy.models.infer.wrapping import wrap
        from seewhy.models.load import finished

        if self.architecture is not None:
            raise OptionError("--architecture goes with a checkpoint file; a module of your own is one already")
        made = _made(file, name)
        if not hasattr(made, "structure"):
            made = wrap(made, input_size=changes.get("size"), name=f"{file.name}:{name}")
        return finished(made, self.head, self.class_names, changes, self.device)


def _texts(zero_shot: str | None, templates: Sequence[str] | None) -> dict[str, Any]:
    if zero_shot is None and templates:
        raise OptionError("--template goes with --zero-shot; without it write the whole prompt: -t 'a photo of a cat'")
    texts: dict[str, Any] = {} if zero_shot is None else {"zero_shot": [t.strip() for t in zero_shot.split(",")]}
    return {**texts, "templates": templates} if templates else texts


def _numbers(name: str, text: str | None, separator: str = ",", count: int | None = None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        numbers = tuple(float(part) for part in text.split(separator))
    except ValueError:
        numbers = ()
    if not numbers or (count is not None and len(numbers) != count):
        example = "0:4095" if count else "0.485,0.456,0.406"
        raise OptionError(f"--{name} {text!r} is not accepted; write for example --{name} {example}")
    return numbers


def _size(text: str) -> int | tuple[int, int]:
    sides = re.fullmatch(r"(\d{1,5})(?:[x×,](\d{1,5}))?", text.strip())
    if sides is None or "0" in sides.groups():
        raise OptionError(f"--size {text!r} is not accepted; write for example --size 384, or --size 384x192")
    return int(sides[1]) if sides[2] is None else (int(sides[1]), int(sides[2]))


def _made(file: Path, name: str) -> Any:
    """Import a file and return what a name in it gives, called if it is a function or class."""
    import importlib.util

    from torch import nn

    spec = importlib.util.spec_from_file_location(f"_seewhy_{file.stem}", file)
    if not file.is_file() or spec is None or spec.loader is None:
        raise ModelError(f"there is no file {file}; pass FILE.py:NAME")
    typer.echo(f"running {file} for {name}", err=True)
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(file.parent.resolve()))  # it may import its neighbors
    try:
        spec.loader.exec_module(module)
        found = getattr(module, name, None)
        if found is None:
            raise ModelError(f"{file} has no {name!r}; write a function that returns the module")
        made = found if isinstance(found, nn.Module) or hasattr(found, "structure") else found()
    except ModelError:
        raise
    except Exception as error:  # of a person's own code
        at = error.__traceback__
        while at is not None and at.tb_next is not None:
            at = at.tb_next
        where = f"{Path(at.tb_frame.f_code.co_filename).name}, line {at.tb_lineno}" if at else str(file)
        raise ModelError(
            f"{file}:{name} failed with {type(error).__name__}: {error} ({where}); mend it there"
        ) from error
    if not isinstance(made, nn.Module) and not hasattr(made, "structure"):
        raise ModelError(f"{file}:{name} gives {type(made).__name__}, not a torch module; return one")
    return made


def with_model(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of `Loading`, which it gets as `loading`.

    Args:
        command: A function of a command with a parameter `loading`.
    """
    signature = inspect.signature(command, eval_str=True)
    options = [
        inspect.Parameter(
            field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=_ANNOTATIONS[field.name]
        )
        for field in fields(Loading)
    ]
    own = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in signature.parameters.values() if p.name != "loading"]
    names = [field.name for field in fields(Loading)]

    @functools.wraps(command)
    def run(**values: Any) -> None:
        loading = Loading(**{name: values.pop(name) for name in names})
        command(**values, loading=loading)

    parameters = own + options
    run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]  # what Typer reads
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    return run


_ANNOTATIONS = inspect.get_annotations(Loading, eval_str=True)
