"""Plans of trained explainers: a small TOML file, checked before anything is loaded, and how it is run."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from seewhy.core.options import Configurable, check_option_names, check_options, option, options_of
from seewhy.data import Dataset, load_data
from seewhy.data.base import sample_indices
from seewhy.errors import DataError, OptionError, UnknownNameError
from seewhy.methods.trained.base import TrainedMethod
from seewhy.models.adapter import VisionModel
from seewhy.models.load import load_model
from seewhy.training.explainers import TASKS, fit_explainer
from seewhy.training.labeled import Augmentation, LabeledImages

FOLDER = Path(__file__).parent / "presets"


@dataclass(kw_only=True, frozen=True)
class Schedule(Configurable):
    """The table [training]; its defaults are those of the ALA paper's table 1 for CUB.

    Raises:
        OptionError: A value cannot be used.
    """

    epochs: int = option(default=120, help="how often all images are seen, at most", at_least=1)
    batch_size: int = option(default=8, help="images per step", at_least=1)
    lr: float = option(default=5e-5, help="learning rate of AdamW")
    weight_decay: float = option(default=1e-4, help="of AdamW", at_least=0)
    patience: int = option(default=5, help="epochs without gain on the validation images before the end", at_least=1)
    precision: str = option(default="32", help="of the arithmetic", choices=("32", "bf16", "16"))
    workers: int = option(default=0, help="processes that read images ahead", at_least=0)
    keep: bool = option(default=False, help="whether decoded images are kept in memory")

    def __post_init__(self) -> None:
        check_options(self)
        if not self.lr > 0:
            raise OptionError(f"lr={self.lr} must be above 0")


@dataclass(kw_only=True, frozen=True)
class Held(Configurable):
    """The table [validation]: images of another split, or some that are taken out of the training split.

    Raises:
        OptionError: A value cannot be used.
    """

    split: str | None = option(default=None, help="another split; its images are left out of the training split")
    n: int | None = option(default=None, help="how many; without `split` drawn out of the training split", at_least=1)

    def __post_init__(self) -> None:
        check_options(self)


@dataclass(frozen=True)
class ExplainerPlan:
    """A checked plan.

    Attributes:
        method: `ala` or `abn`.
        text: What the user wrote.
        seed: Of everything random.
        model: `name` and the options of `load_model`.
        preprocess: What changes in the model's preprocessing.
        data: `name`, `root`, `split`, `n` and options of the dataset.
        held: The validation images.
        augmentation: Of the training images.
        networks: Settings of the networks.
        schedule: How it is trained.
    """

    method: str
    text: str = field(repr=False)
    seed: int
    model: dict[str, Any]
    preprocess: dict[str, Any]
    data: dict[str, Any]
    held: Held
    augmentation: Augmentation
    networks: dict[str, Any]
    schedule: Schedule

    @classmethod
    def parse(cls, method: str, text: str, changes: Sequence[str] = (), name: str = "plan") -> ExplainerPlan:
        """Parse a plan.

        Args:
            method: `ala` or `abn`.
            text: TOML.
            changes: `table.key=value` in TOML; a value that is not is a string.
            name: Of the plan, for messages.

        Raises:
            OptionError: A key does not exist, or its value cannot be used.
        """
        content = _toml(text, name)
        for change in changes:
            _set(content, change)
        tables = ("seed", "model", "preprocess", "data", "validation", "augmentation", "network", "training")
        check_option_names(name, content, tables)
        model = content.get("model", "scenes_vit")
        for key in tables[2:]:
            if not isinstance(content.get(key, {}), dict):
                raise OptionError(f"{name}: {key} must be a table, [{key}]")
        data = dict(content.get("data", {}))
        if not isinstance(data.get("name"), str):
            raise OptionError(f'{name} names no data; add [data] with name = "folder" and root = "…"')
        seed = content.get("seed", 0)
        if type(seed) is not int or seed < 0:
            raise OptionError(f"{name}: seed = {seed!r} must be an integer of 0 or more")
        networks = dict(content.get("network", {}))
        _table(TASKS[method][1], networks, f"{name}, [network]")
        return cls(
            method,
            text,
            seed,
            {"name": model} if isinstance(model, str) else dict(model),
            dict(content.get("preprocess", {})),
            data,
            _table(Held, content.get("validation", {}), f"{name}, [validation]"),
            _table(Augmentation, content.get("augmentation", {}), f"{name}, [augmentation]"),
            networks,
            _table(Schedule, content.get("training", {}), f"{name}, [training]"),
        )

    @classmethod
    def read(cls, method: str, plan: str | Path, changes: Sequence[str] = ()) -> ExplainerPlan:
        """Read a plan from a file, or a preset by its name.

        Raises:
            UnknownNameError: It is neither.
            OptionError: It cannot be read, or something in it cannot work.
        """
        path = Path(plan)
        if not path.is_file():
            presets = {file.stem: file for file in sorted(FOLDER.glob("*.toml"))}
            if str(plan) not in presets:
                raise UnknownNameError("plan (neither a file nor a preset)", str(plan), presets)
            path = presets[str(plan)]
        try:
            text = path.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise OptionError(f"cannot read the plan {str(plan)!r} ({error}); pass the path of a TOML file") from None
        return cls.parse(method, text, changes, path.name)

    def load_model(self, device: str | None = None) -> VisionModel:
        """Open the encoder.

        Raises:
            SeewhyError: As `seewhy.load_model`.
        """
        return load_model(device=device, **self.opened)

    @property
    def opened(self) -> dict[str, Any]:
        """How the encoder is opened: arguments of `load_model`."""
        return {**self.model, **({"preprocess": self.preprocess} if self.preprocess else {})}

    def load_images(self, model: VisionModel) -> tuple[LabeledImages, LabeledImages | None]:
        """Return training and validation images.

        Raises:
            DataError: There are none, or too few, or they show one class only.
            OptionError: The dataset has no such split or option.
        """
        options = {key: value for key, value in self.data.items() if key not in ("name", "n")}
        dataset = load_data(self.data["name"], **options)
        indices = sample_indices(self.data.get("n"), len(dataset), self.seed)
        held: Dataset | None = dataset
        chosen: list[int] = []
        if self.held.split is not None:
            held = load_data(self.data["name"], **{**options, "split": self.held.split})
            chosen = sample_indices(self.held.n, len(held), self.seed)
            theirs = set(held.ids)
            indices = [i for i in indices if dataset.ids[i] not in theirs]
        elif self.held.n is not None:
            if self.held.n >= len(indices):
                raise DataError(f"{self.held.n} validation images leave none of {len(indices)} to train on; use fewer")
            chosen = [indices[i] for i in sample_indices(self.held.n, len(indices), self.seed)]
            indices = sorted(set(indices) - set(chosen))
        else:
            held = None
        keep = self.schedule.keep
        train = LabeledImages(dataset, model, indices=indices, augmentation=self.augmentation, keep=keep)
        if held is None:
            return train, None
        return train, LabeledImages(held, model, classes=train.numbers, indices=chosen, keep=keep)

    def run(
        self, out: str | Path, *, device: str | None = None, resume: bool = False, model: VisionModel | None = None
    ) -> TrainedMethod:
        """Train, and write the fitted explainer.

        Args:
            out: Folder for it, the checkpoint and the log.
            device: Of the training.
            resume: Whether to continue from the checkpoint in `out`.
            model: The encoder, where it is open already.

        Raises:
            SeewhyError: As `fit_explainer`.
        """
        model = model or self.load_model(device)
        train, validation = self.load_images(model)
        schedule = {name: getattr(self.schedule, name) for name in options_of(Schedule) if name != "keep"}
        return fit_explainer(
            self.method,
            model,
            train,
            validation=validation,
            networks=self.networks,
            out=out,
            seed=self.seed,
            resume=resume,
            device=device,
            opened=self.opened,
            **schedule,
        )


def as_toml(value: str | int) -> str:
    """Write a value as TOML."""
    return json.dumps(value, ensure_ascii=False)  # basic strings of TOML are those of JSON


def _toml(text: str, name: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise OptionError(f"{name} is not valid TOML: {error}; correct that line") from None


def parse_setting(setting: str) -> tuple[str, Any]:
    """Read `key=value`, the value in TOML; what is not TOML is a string.

    Raises:
        OptionError: There is no key.
    """
    key, equals, value = setting.partition("=")
    if not equals or not key.strip():
        raise OptionError(f"cannot parse the setting {setting!r}; write key=value, such as --set training.epochs=5")
    try:
        return key.strip(), tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return key.strip(), value


def _set(content: dict[str, Any], change: str) -> None:
    key, value = parse_setting(change)
    *tables, last = key.split(".")
    for table in tables:
        content = content.setdefault(table, {})
        if not isinstance(content, dict):
            raise OptionError(f"cannot set {key}: {table} is not a table in this plan; set {table} itself")
    content[last] = value


def _table(cls: Any, values: Mapping[str, Any], place: str) -> Any:
    """Return a table of the plan; what cannot be says where."""
    check_option_names(place, values, options_of(cls))
    try:
        return cls(**values)
    except OptionError as error:
        raise OptionError(f"{place}: {error}") from None
