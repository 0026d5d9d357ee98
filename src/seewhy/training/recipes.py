"""Training recipes of the reference models: the one table that command, card and tests read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from seewhy.errors import OptionError, UnknownNameError


@dataclass(frozen=True)
class Recipe:
    """Everything that changes the result of a training run, apart from the device and its precision.

    Attributes:
        architecture: A class of `seewhy.models.reference.scenes`.
        split: Of `seewhy.data.Scenes`.
        options: Of the architecture.
        teacher: A shipped CNN whose feature maps the patch tokens shall predict (their places coincide).
        window: With a teacher, the share of the steps, from the first, that look at a random 8 × 8 window of patches.
        start: A shipped model whose weights the run starts from, where the names and shapes fit.
        augment: Whether to mirror, permute the color channels and change the brightness; never where a colored mark
            gives the class.
        images: Size of the training set.
        steps: Of the optimizer.
        batch: Images per step.
        lr: Largest learning rate.
        weight_decay: Of AdamW.
        warmup: Steps in which the learning rate rises.
        seed: Of everything random.
    """

    architecture: str
    split: str = "train"
    options: dict[str, Any] = field(default_factory=dict)
    teacher: str | None = None
    window: float = 0.0
    start: str | None = None
    augment: bool = True
    images: int = 40000
    steps: int = 1600
    batch: int = 128
    lr: float = 2e-3
    weight_decay: float = 0.05
    warmup: int = 200
    seed: int = 0


_REGISTERS = {"registers": 4, "pool": "mean"}

RECIPES: dict[str, Recipe] = {
    "scenes_cnn": Recipe("SceneCNN", steps=1300),
    "scenes_cnn_shortcut": Recipe("SceneCNN", split="train_shortcut", augment=False, images=8000, steps=400),
    "scenes_cnn_absent": Recipe("SceneCNN", split="train_absent", images=8000, steps=1000),
    "scenes_vit": Recipe("SceneViT", teacher="scenes_cnn", window=0.4, steps=2800, batch=64, lr=1e-3, warmup=100),
    "scenes_vit_registers": Recipe(
        "SceneViT",
        options=_REGISTERS,
        teacher="scenes_cnn",
        start="scenes_vit",
        steps=350,
        batch=64,
        lr=4e-4,
        warmup=50,
    ),
    "scenes_vit_shortcut": Recipe(
        "SceneViT",
        split="train_shortcut",
        teacher="scenes_cnn_shortcut",
        augment=False,
        images=8000,
        steps=300,
        batch=64,
        lr=1e-3,
        warmup=100,
    ),
}


def parse_changes(pairs: Sequence[str]) -> dict[str, Any]:
    """Read `["steps=500", "lr=1e-3"]` as fields of a recipe, each as its field's type.

    Raises:
        OptionError: When there is no "=", or a value has the wrong type.
        UnknownNameError: When a recipe has no such field.
    """
    changes: dict[str, Any] = {}
    defaults = {f.name: f.default for f in fields(Recipe)}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals:
            raise OptionError(f"expected KEY=VALUE, got {pair!r}; try --set steps=500")
        if key not in defaults:
            raise UnknownNameError("recipe field", key, defaults)
        changes[key] = _read(key, text, defaults[key])
    return changes


def _read(key: str, text: str, like: Any) -> Any:
    if isinstance(like, bool):
        return text.lower() in ("1", "true", "yes")
    if isinstance(like, (int, float)):
        try:
            return type(like)(text)
        except ValueError:
            raise OptionError(f"{key} must be a number, got {text!r}; try --set {key}={like}") from None
    return None if text.lower() == "none" else text
