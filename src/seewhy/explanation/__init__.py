"""A map, what it is a map of, and what the model saw."""

from __future__ import annotations

import json
import platform
from dataclasses import dataclass, field, fields
from io import BytesIO
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float
from PIL import Image, ImageDraw
from torch import Tensor

from seewhy import __version__
from seewhy.core.boxes import Box, boxes_of_parts
from seewhy.core.deep import DeepImage
from seewhy.core.heatmap import heatmap, overlay, overlay_in_box
from seewhy.core.images import ImageLike, load_image, read_image, save_png
from seewhy.core.io import atomic_folder, first_line, json_default
from seewhy.core.maps import is_constant, normalize, place, resize
from seewhy.core.options import options_of
from seewhy.errors import NonFiniteError, OptionError, SeewhyError, install_hint
from seewhy.methods.base import METHODS, Method

SCHEMA = 1
FORMAT = "seewhy.explanation"
MANIFEST, MAP, IMAGE, OVERLAY = "manifest.json", "map.safetensors", "image.png", "overlay.png"
VOLUME = "volume.safetensors"
OWN_FILES = {MANIFEST, MAP, IMAGE, OVERLAY, VOLUME}
NEWER_FIELDS = ("box", "image_size")
CONSTANT_WARNING = "constant map: it says nothing about where"


def _versions() -> dict[str, str]:
    return {"seewhy": __version__, "torch": torch.__version__, "python": platform.python_version()}


@dataclass(eq=False, repr=False)
class Explanation:
    """One attribution map for one image and one target.

    Attributes:
        attribution: The map on the method's own grid, not normalized, signed if the method is; float32 on the CPU.
        method: The method's name in the registry, such as `grad_cam`.
        model: The model's name.
        target: What is explained, in values that JSON knows: kind, label, index, score …
        layer: Where the method cuts the model, if it does.
        options: The method's options, in values that JSON knows.
        image: What the model saw (`Preprocess.visible_region`), of any resolution; the map covers all of it.
        signed: Whether negative values mean evidence against the target.
        seconds: How long the method took.
        versions: Versions of seewhy, torch and Python.
        source: The file that the image came from.
        input_size: Rows and columns of the model's input.
        box: What the model saw of the original image, upright: left, top, right, bottom in its pixels; it reaches
            beyond the image where that was padded. None: not known.
        image_size: Rows and columns of the original image, upright.

    Raises:
        NonFiniteError: The map holds NaN or infinity.
        OptionError: The map does not have two dimensions.
    """

    axes: ClassVar[int] = 2
    """How many axes the map has."""

    attribution: Float[Tensor, "..."]
    method: str
    model: str = "model"
    target: dict[str, Any] = field(default_factory=dict[str, Any])
    layer: str | None = None
    options: dict[str, Any] = field(default_factory=dict[str, Any])
    image: Image.Image | None = None
    signed: bool = False
    seconds: float | None = None
    versions: dict[str, str] = field(default_factory=_versions)
    source: str | None = None
    input_size: tuple[int, ...] | None = None
    box: tuple[float, float, float, float] | None = None
    image_size: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        self.attribution = self.attribution.detach().to("cpu", torch.float32)
        if self.attribution.ndim != self.axes or self.attribution.numel() == 0:
            shape = "(rows, cols)" if self.axes == 2 else "(depth, rows, cols)"
            raise OptionError(
                f"a map has the shape {shape}, not {tuple(self.attribution.shape)}; take one of the batch"
            )
        if not torch.isfinite(self.attribution).all():
            raise NonFiniteError(f"the {self.method} map holds NaN or infinity; run the model in float32")

    def __repr__(self) -> str:
        grid = "×".join(map(str, self.attribution.shape))
        about = f"{grid} map of {self.model}" + (", signed" if self.signed else "")
        return f"<Explanation {self.title}: {about}{f', {self.source}' if self.source else ''}>"

    # --- the numbers ---

    @property
    def is_constant(self) -> bool:
        """Whether all values are equal (up to float32 rounding), so that the map points nowhere."""
        return bool(is_constant(self.attribution, axes=self.axes))

    @property
    def constant_advice(self) -> str:
        """What to tell the reader of a constant map."""
        value = f"{self.attribution.flatten()[0]:.3g}"
        return f"{self.title}: the map is {value} everywhere, it says nothing; try another layer or target"

    def resized(self, size: tuple[int, int] | None = None, mode: str = "bilinear") -> Float[Tensor, "rows cols"]:
        """Return the map at another size.

        Args:
            size: Rows and columns; by default those of the model's input.
            mode: `bilinear`, `nearest` or `bicubic`.

        Raises:
            OptionError: The mode is unknown, or there is no size and the input size is not known.
        """
        wanted = size or self.input_size
        if wanted is None:
            raise OptionError("the input size of this explanation is not known; pass size=(rows, cols)")
        return resize(self.attribution, (wanted[0], wanted[1]), mode)

    def normalized(self) -> Float[Tensor, "..."]:
        """Return the map in the range in which it is shown, by its own values only.

        Unsigned maps go to [0, 1] by minimum and maximum, signed maps to [-1, 1] by the largest magnitude, so that 0
        stays 0. A constant map becomes all zeros.
        """
        return normalize(self.attribution, self.signed, self.axes)

    # --- back to the original image ---

    def on_image(self, outside: float = 0.0, mode: str = "bilinear") -> Float[Tensor, "..."]:
        """Return the map on the original image (upright, `image_size`), where the model saw it.

        Args:
            outside: The value where the model saw nothing; `float("nan")` draws it transparent in matplotlib.
            mode: `bilinear` or `nearest`.

        Raises:
            OptionError: The place of the map is not known, or the mode.
        """
        if self.box is None or self.image_size is None:
            raise OptionError(
                "it is not known which part of the image the model saw; explain an image file or array with a model "
                "whose preprocess is a seewhy.Preprocess"
            )
        rows, cols = self.image_size
        return place(self.attribution, self.box, (rows, cols), outside, mode)

    def mask(self, threshold: float = 0.5) -> Bool[Tensor, "..."]:
        """Return where the map, on the original image, is above a share of its largest value; nowhere if constant.

        Args:
            threshold: The share, in [0, 1).

        Raises:
            OptionError: The threshold is out of range, or the place of the map is not known.
        """
        if not 0 <= threshold < 1:
            raise OptionError(f"threshold must be in [0, 1), got {threshold}; pass e.g. threshold=0.5")
        values = self.on_image(outside=-torch.inf)
        if self.is_constant or float(self.attribution.max()) <= 0:
            return torch.zeros_like(values, dtype=torch.bool)
        return values > threshold * values.max()

    def boxes(self, threshold: float = 0.5, min_area: float = 0.001) -> list[Box]:
        """Return a box around each connected part (4 neighbors) of `mask`, in pixels of the original image.

        Args:
            threshold: As in `mask`.
            min_area: Parts that cover a smaller share of the image are left out.

        Returns:
            The boxes, that of the largest value first.

        Raises:
            OptionError: As `mask`.
            MissingExtraError: When `pip install 'seewhy[cluster]'` has not been done.
        """
        return boxes_of_parts(self.mask(threshold), self.on_image(), min_area)

    def overlay_on_image(
        self, image: ImageLike | None = None, alpha: float = 0.8, long_side: int = 2048
    ) -> Image.Image:
        """Draw the map over the whole original image; what the model did not see stays as it is.

        Args:
            image: The original image; by default the file `source`.
            alpha: As in `overlay`.
            long_side: The largest number of pixels on the long side of the figure.

        Raises:
            OptionError: The place of the map is not known, or the image is another one.
            ImageError: The image cannot be read.
        """
        if self.box is None or self.image_size is None:
            self.on_image()
        read = read_image(self.source or "" if image is None else image, channels=None)
        whole = read.view() if isinstance(read, DeepImage) else read
        figure = overlay_in_box(self, whole, alpha, long_side)
        left, top, right, bottom = self.box or (0, 0, *whole.size)
        scale = figure.width / whole.width
        self._outline(figure, left * scale, top * scale, (right - left) * scale, (bottom - top) * scale)
        return figure

    def _outline(self, figure: Image.Image, left: float, top: float, width: float, height: float) -> None:
        """Draw the box of a detection that is explained, a part of this rectangle."""
        box = self.target.get("box")
        if not box:
            return
        origin, sides = (left, top) * 2, (width, height) * 2
        edges = [start + share * side for start, share, side in zip(origin, box, sides, strict=True)]
        line = max(1, round(min(figure.size) / 120))
        draw = ImageDraw.Draw(figure)
        draw.rectangle(edges, outline="#000000", width=3 * line)
        inner = [edges[0] + line, edges[1] + line, edges[2] - line, edges[3] - line]
        if inner[0] < inner[2] and inner[1] < inner[3]:
            draw.rectangle(inner, outline="#ffffff", width=line)

    # --- titles and figures ---

    @property
    def title(self) -> str:
        """Method and target, such as "Grad-CAM · tabby (0.63)"."""
        return " · ".join(part for part in (self.method_title, self.target_title) if part)

    @property
    def method_title(self) -> str:
        """The method as people write it, such as "Grad-CAM", and the option `show` where it is not the default."""
        cls = self._method_class
        if cls is None:
            return self.method
        show = options_of(cls).get("show")
        shown = self.options.get("show")
        if show is None or shown in (None, show.default):
            return cls.card.title
        return f"{cls.card.title} {shown}"

    @property
    def hides(self) -> bool:
        """Whether 0 in the map means that nothing is shown there, not that the value is small."""
        cls = self._method_class
        return cls is not None and cls.card.hides

    @property
    def _method_class(self) -> type[Method] | None:
        return METHODS.get(self.method)

    @property
    def target_title(self) -> str:
        """The target and its score, such as "tabby (0.63)"; empty for methods without a target."""
        label = self.target.get("label")
        if label is None:
            label = self.target.get("index", self.target.get("kind", ""))
        score = self.target.get("score")
        return f"{label}" if score is None or label == "" else f"{label} ({score:.2f})"

    @property
    def warnings(self) -> list[str]:
        """What a reader of the figure must know; shown in its caption."""
        return [CONSTANT_WARNING] if self.is_constant else []

    def overlay(
        self,
        alpha: float = 0.8,
        size: tuple[int, int] | None = None,
        mode: str = "bilinear",
        clip: float | None = None,
    ) -> Image.Image:
        """Draw the map over the image, and the box of a detection; options as in `seewhy.viz.overlay`."""
        figure = overlay(self, alpha, size, mode, clip)
        self._outline(figure, 0, 0, *figure.size)
        return figure

    def heatmap(
        self, size: tuple[int, int] | None = None, mode: str = "bilinear", clip: float | None = None
    ) -> Image.Image:
        """Draw the map alone in colors; options as in `seewhy.viz.heatmap`."""
        return heatmap(self, size, mode, clip)

    def _repr_png_(self) -> bytes:
        buffer = BytesIO()
        self.overlay().save(buffer, "png")
        return buffer.getvalue()

    # --- on disk ---

    def save(self, folder: str | Path) -> Path:
        """Write manifest.json, map.safetensors (exact), image.png and overlay.png.

        All or nothing: a failure leaves what was there. An explanation that was saved there before is replaced.

        Args:
            folder: Where to.

        Returns:
            The folder.

        Raises:
            SeewhyError: The folder holds other files, or cannot be written.
        """
        folder = Path(folder)
        _check_replaceable(folder)
        with atomic_folder(folder) as draft:
            self._write(draft)
        return folder

    def _write(self, draft: Path) -> None:
        from safetensors.torch import save_file

        save_file({"map": self.attribution.contiguous()}, draft / MAP)
        if self.image is not None:
            save_png(load_image(self.image), draft / IMAGE)
        self._write_more(draft)
        save_png(self.overlay(), draft / OVERLAY)
        manifest = {"format": FORMAT, "schema": SCHEMA, "has_image": self.image is not None}
        manifest |= {"axes": self.axes} if self.axes != 2 else {}
        manifest |= {name: getattr(self, name) for name in _plain_fields()}
        text = json.dumps(manifest, indent=2, ensure_ascii=False, default=json_default)
        # a file name that is not UTF-8 holds half a character, which JSON has an escape for
        (draft / MANIFEST).write_bytes(text.encode("utf-8", "backslashreplace"))

    def _write_more(self, draft: Path) -> None:
        """Write what a subclass has beside the map."""

    @classmethod
    def _read_more(cls, folder: Path) -> dict[str, Any]:
        """Read what `_write_more` wrote."""
        return {}

    @classmethod
    def load(cls, folder: str | Path) -> Explanation:
        """Read what `save` wrote: the same tensor bit by bit, and the same fields; of a volume a `VolumeExplanation`.

        Args:
            folder: What `save` returned.

        Raises:
            SeewhyError: It is not a saved explanation, is broken, or comes from a newer seewhy.
        """
        folder = Path(folder)
        manifest = _read_manifest(folder)
        try:
            # what older versions did not know is None
            kept = {name: manifest[name] for name in _plain_fields() if name in manifest or name not in NEWER_FIELDS}
            for name in ("input_size", *NEWER_FIELDS):
                kept[name] = tuple(kept[name]) if kept.get(name) else None
            image = load_image(folder / IMAGE) if manifest["has_image"] else None
            kind = _volume_kind() if manifest.get("axes") == 3 else cls
            return kind(attribution=_read_map(folder), image=image, **kept, **kind._read_more(folder))
        except KeyError as error:
            raise SeewhyError(f"{folder / MANIFEST} lacks {error.args[0]!r}; save the explanation again") from None
        except (TypeError, ValueError) as error:
            raise _broken(folder / MANIFEST, error) from error


def _volume_kind() -> type[Explanation]:
    from seewhy.explanation.volume import VolumeExplanation

    return VolumeExplanation


# --- files -----------------------------------------------------------------------------------------------------------


def _broken(path: Path, error: Exception) -> SeewhyError:
    return SeewhyError(f"{path} is missing or broken ({first_line(error)}); save the explanation again")


def _plain_fields() -> list[str]:
    return [f.name for f in fields(Explanation) if f.name not in ("attribution", "image")]


def _is_own(folder: Path) -> bool:
    try:
        return bool(json.loads((folder / MANIFEST).read_text("utf-8")).get("format") == FORMAT)
    except (OSError, ValueError, AttributeError):
        return False


def _check_replaceable(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise SeewhyError(f"{folder} is a file; choose another folder")
    if not folder.is_dir():
        return
    names = {path.name for path in folder.iterdir()}
    foreign = sorted(names - OWN_FILES) if _is_own(folder) else sorted(names)
    if foreign:
        raise SeewhyError(f"{folder} holds other files ({foreign[0]!r}) and is not replaced; choose another folder")


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    if not path.is_file():
        raise SeewhyError(f"{folder} is not a saved explanation (no {MANIFEST}); pass what Explanation.save wrote")
    try:
        manifest = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise _broken(path, error) from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise SeewhyError(f"{path} is not a seewhy explanation; pass what Explanation.save wrote")
    schema = manifest.get("schema")
    if not isinstance(schema, int) or schema > SCHEMA:
        raise SeewhyError(
            f"{path} has schema {schema}, this seewhy reads up to {SCHEMA}; {install_hint('', '--upgrade')}"
        )
    return manifest


def _read_map(folder: Path) -> Tensor:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(folder / MAP)["map"]
    except (OSError, SafetensorError, KeyError) as error:
        raise _broken(folder / MAP, error) from error
