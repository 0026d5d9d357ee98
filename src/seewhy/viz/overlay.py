"""A map over the picture, and a map alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageDraw
from torch import Tensor

from seewhy.core.maps import resize
from seewhy.errors import OptionError
from seewhy.viz.colors import colorize
from seewhy.viz.text import font

if TYPE_CHECKING:
    from seewhy.explanation import Explanation

FADE = 0.9  # how far the photo turns gray: an orange cup must not pass for the map's orange
LIFT = 0.25  # how far it turns pale: dark places would swallow the map's dark colors
GAMMA = 0.7  # below 1: weaker regions show, too
FAINT = 0.15  # the least of what is shown, where 0 means hidden
FINE = 1024  # cells; pixel-level maps are ruled by a few outliers, coarse ones are not
FINE_CLIP = 0.99
CLIP_LEGEND = "in pixel-level maps the strongest 1 % share one color"


def heatmap(
    explanation: Explanation, size: tuple[int, int] | None = None, mode: str = "bilinear", clip: float | None = None
) -> Image.Image:
    """The normalized map in colors; options as in `overlay`."""
    return Image.fromarray(colorize(_values(explanation, _size(explanation, size), mode, clip), explanation.signed))


def overlay(
    explanation: Explanation,
    alpha: float = 0.8,
    size: tuple[int, int] | None = None,
    mode: str = "bilinear",
    clip: float | None = None,
) -> Image.Image:
    """The map over what the model saw; the photo shows through where the map is weak.

    Args:
        explanation: without an image it is drawn as a heat map alone.
        alpha: opacity of the strongest place, in [0, 1].
        size: (rows, cols) of the result; the image's own by default, at least the model's input size.
        mode: how the map grows: bilinear, nearest (shows the method's own grid) or bicubic.
        clip: quantile of the non-zero magnitudes that gets the full color, in (0, 1]; what is stronger looks the same.
            By default 0.99 for pixel-level maps, 1 (nothing clipped) for coarse ones. Changes the picture, not the map.

    Raises:
        OptionError: an impossible alpha, size, mode or clip.
    """
    if not 0 <= alpha <= 1:
        raise OptionError(f"alpha {alpha} is not in [0, 1]; pass e.g. alpha=0.8")
    size = _size(explanation, size)
    values = _values(explanation, size, mode, clip)
    heat = colorize(values, explanation.signed)
    if explanation.image is None:
        picture = Image.fromarray(heat)
    else:
        picture = Image.fromarray(_blend(_photo(explanation.image, size), heat, alpha * np.abs(values) ** GAMMA))
    return _banner(picture, explanation.warnings[0]) if explanation.warnings else picture


def _blend(photo: np.ndarray, heat: np.ndarray, opacity: Float[np.ndarray, "rows cols"]) -> np.ndarray:
    opacity = opacity[..., None]
    return np.rint(photo * (1 - opacity) + heat * opacity).astype(np.uint8)


def _photo(image: Image.Image, size: tuple[int, int]) -> np.ndarray:
    """The picture at the wanted size, grayed and paled."""
    image = image.convert("RGB")
    if image.size != (size[1], size[0]):
        image = image.resize((size[1], size[0]), Image.Resampling.BICUBIC)
    gray = np.asarray(Image.blend(image, image.convert("L").convert("RGB"), FADE), dtype=np.float32)
    return gray * (1 - LIFT) + 255 * LIFT


def is_fine(explanation: Explanation) -> bool:
    """Whether the map is on (nearly) the pixels' own grid."""
    return explanation.attribution.numel() >= FINE


def _values(
    explanation: Explanation, size: tuple[int, int], mode: str, clip: float | None
) -> Float[np.ndarray, "rows cols"]:
    """Normalized on the map's own grid first: otherwise the peak's height would depend on the size of the picture."""
    clip = (FINE_CLIP if is_fine(explanation) else 1.0) if clip is None else clip
    if not 0 < clip <= 1:
        raise OptionError(f"clip {clip} is not in (0, 1]; pass e.g. clip=0.99")
    values = _spread(explanation.normalized()) if explanation.hides else explanation.normalized()
    strengths = values[values != 0].abs().numpy()
    if clip < 1 and strengths.size:
        values = values / float(np.quantile(strengths, clip))
    low = -1 if explanation.signed else 0
    return resize(values.clamp(low, 1), size, mode).clamp(low, 1).numpy()  # bicubic overshoots


def _spread(values: Tensor) -> Tensor:
    """What is shown at all, from `FAINT` to 1; else it would be one bright spot where it is far above zero."""
    shown = values > 0
    if not shown.any():
        return values
    low = values[shown].min()
    return torch.where(shown, FAINT + (1 - FAINT) * (values - low) / (1 - low).clamp(min=1e-12), 0)


def _size(explanation: Explanation, size: tuple[int, int] | None) -> tuple[int, int]:
    if size is not None:
        if min(size) < 1:
            raise OptionError(f"a picture cannot have the size {tuple(size)}; pass (rows, cols) of at least 1")
        return tuple(size)
    floor = explanation.input_size or (224, 224)
    if explanation.image is None:
        return floor
    cols, rows = explanation.image.size
    scale = max(1.0, min(floor) / min(rows, cols))
    return round(rows * scale), round(cols * scale)


def _banner(picture: Image.Image, text: str) -> Image.Image:
    """A line of text along the lower edge; nobody may take an empty map for an answer."""
    points = max(9, picture.width // 22)
    draw = ImageDraw.Draw(picture)
    while points > 6 and draw.textlength(text, font(points)) > picture.width - 8:
        points -= 1
    top = picture.height - 2 * points
    draw.rectangle((0, top, picture.width, picture.height), fill="#1a1a1a")
    draw.text((picture.width / 2, top + points), text, fill="white", font=font(points), anchor="mm")
    return picture
