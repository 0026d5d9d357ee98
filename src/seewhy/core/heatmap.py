"""Draw one attribution map in colors: alone, or over the image that it explains."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from PIL import Image, ImageDraw
from torch import Tensor

from seewhy.core.colors import colorize
from seewhy.core.fonts import font
from seewhy.core.maps import resize
from seewhy.errors import OptionError

FADE = 0.9  # how far the image turns gray: an orange cup must not pass for the map's orange
LIFT = 0.25  # how far it turns pale: dark places would swallow the map's dark colors
GAMMA = 0.7  # below 1: weaker regions show, too
FAINT = 0.15  # the least of what is shown, where 0 means hidden
FINE = 1024  # cells; pixel-level maps are ruled by a few outliers, coarse ones are not
FINE_CLIP = 0.99
CLIP_LEGEND = "in pixel-level maps the strongest 1 % share one color"
DEFAULT_SIZE = (224, 224)


class AttributionMap(Protocol):
    """Protocol of a map that can be drawn; `seewhy.Explanation` is one."""

    @property
    def attribution(self) -> Float[Tensor, "rows cols"]:
        """The values on the method's own grid."""
        ...

    @property
    def image(self) -> Image.Image | None:
        """What the model saw; the map covers all of it."""
        ...

    @property
    def signed(self) -> bool:
        """Whether negative values mean evidence against the target."""
        ...

    @property
    def hides(self) -> bool:
        """Whether 0 means that nothing is shown there, not that the value is small."""
        ...

    @property
    def input_size(self) -> tuple[int, ...] | None:
        """Rows and columns of the model's input."""
        ...

    @property
    def warnings(self) -> list[str]:
        """What a reader of the figure must know; the first one is written into it."""
        ...

    def normalized(self) -> Float[Tensor, "rows cols"]:
        """Return the values in [0, 1], or in [-1, 1] if signed."""
        ...


class Placed(AttributionMap, Protocol):
    """A map whose place in the original image may be known."""

    @property
    def box(self) -> tuple[float, float, float, float] | None:
        """What the model saw of the original image."""
        ...

    @property
    def image_size(self) -> tuple[int, ...] | None:
        """Rows and columns of the original image."""
        ...


def heatmap(
    explanation: AttributionMap,
    size: tuple[int, int] | None = None,
    mode: str = "bilinear",
    clip: float | None = None,
) -> Image.Image:
    """Draw the normalized map in colors.

    Args:
        explanation: The map.
        size: As in `overlay`.
        mode: As in `overlay`.
        clip: As in `overlay`.

    Raises:
        OptionError: When size, mode or clip is out of range.
    """
    values = _display_values(explanation, _figure_size(explanation, size), mode, clip)
    return Image.fromarray(colorize(values, explanation.signed))


def overlay(
    explanation: AttributionMap,
    alpha: float = 0.8,
    size: tuple[int, int] | None = None,
    mode: str = "bilinear",
    clip: float | None = None,
) -> Image.Image:
    """Draw the map over what the model saw; the image shows through where the map is weak.

    Args:
        explanation: The map. Without an image it is drawn as a heat map alone.
        alpha: Opacity of the strongest place, in [0, 1].
        size: Rows and columns of the result; by default those of the image, at least the model's input size.
        mode: How the map is enlarged: bilinear, nearest (shows the method's own grid) or bicubic.
        clip: Quantile of the non-zero magnitudes that gets the full color, in (0, 1]; what is stronger looks the same.
            By default 0.99 for pixel-level maps, 1 (nothing clipped) for coarse ones. Changes the figure, not the map.

    Raises:
        OptionError: When alpha, size, mode or clip is out of range.
    """
    if not 0 <= alpha <= 1:
        raise OptionError(f"alpha must be in [0, 1], got {alpha}; pass e.g. alpha=0.8")
    size = _figure_size(explanation, size)
    values = _display_values(explanation, size, mode, clip)
    heat = colorize(values, explanation.signed)
    if explanation.image is None:
        figure = Image.fromarray(heat)
    else:
        opacity = alpha * np.abs(values) ** GAMMA
        figure = Image.fromarray(_blend(_pale(explanation.image, size), heat, opacity))
    if explanation.warnings:
        _draw_banner(figure, explanation.warnings[0])
    return figure


def overlay_in_box(explanation: Placed, whole: Image.Image, alpha: float, long_side: int) -> Image.Image:
    """Draw the map over its part of the original image.

    Args:
        explanation: The map, whose place is known.
        whole: The original image, upright.
        alpha: As in `overlay`.
        long_side: The largest number of pixels on the long side of the figure.

    Raises:
        OptionError: When the image has another size than the one that was explained.
    """
    rows, cols = explanation.image_size or (whole.height, whole.width)
    if whole.size != (cols, rows):
        raise OptionError(
            f"the image has {whole.height}×{whole.width} pixels, and the one that was explained {rows}×{cols}; "
            "pass that one"
        )
    scale = min(1.0, long_side / max(rows, cols))
    size = max(1, round(cols * scale)), max(1, round(rows * scale))
    figure = whole.convert("RGB").resize(size, Image.Resampling.BICUBIC)
    left, top, right, bottom = (round(edge * scale) for edge in explanation.box or (0, 0, cols, rows))
    drawn = overlay(explanation, alpha, (max(1, bottom - top), max(1, right - left)))
    figure.paste(drawn, (left, top))
    return figure


def is_fine(explanation: AttributionMap) -> bool:
    """Tell whether the map lies on (nearly) the pixels' own grid."""
    return explanation.attribution.numel() >= FINE


def _blend(image: ndarray, heat: ndarray, opacity: Float[ndarray, "rows cols"]) -> ndarray:
    opacity = opacity[..., None]
    blended: ndarray = np.rint(image * (1 - opacity) + heat * opacity).astype(np.uint8)
    return blended


def _pale(image: Image.Image, size: tuple[int, int]) -> ndarray:
    """Return the image at the wanted (rows, cols), grayed and paled."""
    rows, cols = size
    image = image.convert("RGB")
    if image.size != (cols, rows):
        image = image.resize((cols, rows), Image.Resampling.BICUBIC)
    gray = np.asarray(Image.blend(image, image.convert("L").convert("RGB"), FADE), dtype=np.float32)
    return gray * (1 - LIFT) + 255 * LIFT


def _display_values(
    explanation: AttributionMap, size: tuple[int, int], mode: str, clip: float | None
) -> Float[ndarray, "rows cols"]:
    """Normalize on the map's own grid, then resize: else the height of the peak would depend on the figure's size."""
    if clip is None:
        clip = FINE_CLIP if is_fine(explanation) else 1.0
    if not 0 < clip <= 1:
        raise OptionError(f"clip must be in (0, 1], got {clip}; pass e.g. clip=0.99")
    values = explanation.normalized()
    if explanation.hides:
        values = _spread_shown(values)
    magnitudes = values[values != 0].abs().numpy()
    if clip < 1 and magnitudes.size:
        values = values / float(np.quantile(magnitudes, clip))
    low = -1 if explanation.signed else 0
    return resize(values.clamp(low, 1), size, mode).clamp(low, 1).numpy()  # bicubic overshoots


def _spread_shown(values: Tensor) -> Tensor:
    """Bring the values above zero to [`FAINT`, 1]: where all are far above zero they would be one bright spot."""
    shown = values > 0
    if not shown.any():
        return values
    low = values[shown].min()
    return torch.where(shown, FAINT + (1 - FAINT) * (values - low) / (1 - low).clamp(min=1e-12), 0)


def _figure_size(explanation: AttributionMap, size: tuple[int, int] | None) -> tuple[int, int]:
    if size is not None:
        rows, cols = size
        if min(rows, cols) < 1:
            raise OptionError(f"size must be at least 1×1, got {rows}×{cols}; pass size=(rows, cols)")
        return rows, cols
    least = explanation.input_size or DEFAULT_SIZE
    if explanation.image is None:
        return least[0], least[1]
    cols, rows = explanation.image.size
    scale = max(1.0, min(least) / min(rows, cols))
    return round(rows * scale), round(cols * scale)


def _draw_banner(figure: Image.Image, text: str) -> None:
    """Write a warning along the lower edge, so that nobody takes an empty map for an answer."""
    points = max(9, figure.width // 22)
    draw = ImageDraw.Draw(figure)
    while points > 6 and draw.textlength(text, font(points)) > figure.width - 8:
        points -= 1
    top = figure.height - 2 * points
    draw.rectangle((0, top, figure.width, figure.height), fill="#1a1a1a")
    draw.text((figure.width / 2, top + points), text, fill="white", font=font(points), anchor="mm")
