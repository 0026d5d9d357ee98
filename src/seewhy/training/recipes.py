"""How each reference model of the made world is trained: the one table that command, card and tests read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from seewhy.errors import OptionError, UnknownNameError


@dataclass(frozen=True)
class Recipe:
    """One training run. Everything that changes the result is in here, apart from the device and its precision."""

    architecture: str
    split: str = "train"
    options: dict[str, Any] = field(default_factory=dict)
    teacher: str | None = None
    """A shipped CNN whose last feature map the patch tokens shall predict (their places coincide)."""
    window: float = 0.0
    """With a teacher: the share of the steps, from the first, that look at a random 8 × 8 window of patches only."""
    start: str | None = None
    """A shipped model whose weights the run starts from, where the names and shapes fit."""
    augment: bool = True
    """Mirror, permute the color channels and change the brightness; never where a colored mark gives the class."""
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
    """`["steps=500", "lr=1e-3"]` to fields of a recipe, each read as its field's type.

    Raises:
        OptionError: no "=", or a value of the wrong type.
        UnknownNameError: a recipe has no such field.
    """
    changes = {}
    numbers = {f.name: f.default for f in fields(Recipe)}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals:
            raise OptionError(f"{pair!r} is not KEY=VALUE; try --set steps=500")
        if key not in numbers:
            raise UnknownNameError("recipe field", key, numbers)
        changes[key] = _read(key, text, numbers[key])
    return changes


def _read(key: str, text: str, like: Any) -> Any:
    if isinstance(like, bool):
        return text.lower() in ("1", "true", "yes")
    if isinstance(like, (int, float)):
        try:
            return type(like)(text)
        except ValueError:
            raise OptionError(f"{key}={text!r} is not a number; try --set {key}={like}") from None
    return None if text.lower() == "none" else text
