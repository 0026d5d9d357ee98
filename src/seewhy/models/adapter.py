"""The one contract between models and methods: a `VisionModel`, whatever library the module is from.

A source (torchvision, timm, …) has one file that fills in a `Structure`; everything else works on `VisionModel`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from itertools import chain
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn

from seewhy.core.cards import CAPABILITY_TEXT, Capability
from seewhy.core.deep import DeepImage
from seewhy.core.images import MAX_PIXELS, ImageLike, ReadImage, as_list, load_image, opened
from seewhy.core.io import first_line
from seewhy.core.preprocess import Preprocess
from seewhy.core.volumes import Volume, VolumePreprocess, as_volumes, opened_volume
from seewhy.errors import (
    ImageError,
    LayoutError,
    ModelError,
    NonFiniteError,
    RequirementError,
    SeewhyError,
    TargetError,
    UnknownNameError,
)
from seewhy.models.instrument.attention import AttentionReceiver, reading_attention
from seewhy.models.instrument.class_row import NoClassRow
from seewhy.models.instrument.hooks import (
    INFERENCE,
    Stop,
    collecting,
    cut,
    hooked,
    made_in_inference_mode,
    tapping,
    untouched,
)
from seewhy.models.instrument.locks import exclusive
from seewhy.models.instrument.next_relu import activation_of
from seewhy.models.instrument.shared_images import (
    ImageIndex,
    current_index_of,
    image_index_of,
    passing_unique_images,
    sharing_images,
)
from seewhy.models.instrument.tail import Tail
from seewhy.models.layers import LayerIndex, LayerLike
from seewhy.models.partial import BlockTokens, ClassTokenTail, ModelTail
from seewhy.models.structure import Block, Layer, Structure
from seewhy.models.text import PLAIN, TextEncoder, ZeroShotHead
from seewhy.targets import Output, Target, TargetLike, as_detection, as_outputs, as_region, as_target

PreprocessFunction = Callable[[Image.Image], Tensor]
"""From an image to the model's input, (channels, rows, cols); of volumes from and to (channels, depth, rows, cols)."""


def one_input(value: Any) -> Tensor:
    """Return what a preprocess function gave for one image; an image processor's `pixel_values`, a batch of one.

    Raises:
        ImageError: It is no tensor (channels, rows, cols).
    """
    if isinstance(value, Mapping) and "pixel_values" in value:
        value = value["pixel_values"]
    if isinstance(value, list | tuple) and len(value) == 1:
        (value,) = value
        value = torch.as_tensor(value) if isinstance(value, np.ndarray) else value
    if isinstance(value, Tensor) and value.ndim == 4 and len(value) == 1:
        value = value[0]
    if not isinstance(value, Tensor) or value.ndim != 3:
        shape = f" of shape {tuple(value.shape)}" if isinstance(value, Tensor | np.ndarray) else ""
        raise ImageError(
            f"preprocess gave {type(value).__name__}{shape}; make it return a tensor (channels, rows, cols)"
        )
    return value


class VisionModel:
    """A module, how to feed it, and where it keeps what.

    Made by `seewhy.load_model` and `seewhy.wrap`. The module is never changed: each call leaves weights, modes,
    hooks, gradients, buffers and the random state as they were.

    Args:
        module: The module.
        structure: Where it keeps what.
        name: For messages and manifests; default: the module's class.
        preprocess: From a PIL image to (channels, rows, cols); default: ImageNet's.
        class_names: One for each class; of a head with one logit also two, "no" and "yes".
        text: The text side of a model of images and texts.
    """

    def __init__(
        self,
        module: nn.Module,
        structure: Structure,
        *,
        name: str = "",
        preprocess: PreprocessFunction | None = None,
        class_names: Sequence[str] | None = None,
        text: TextEncoder | None = None,
    ) -> None:
        self.module = module
        self.structure = structure
        self.name = name or type(module).__name__
        self.preprocess: PreprocessFunction = preprocess or Preprocess()
        self.class_names = tuple(class_names) if class_names else None
        if self.class_names and len(self.class_names) == 2 and self.classes == 1 and not structure.regression:
            self.structure = structure.with_opposite_logits()
        self.text = text

    def __repr__(self) -> str:
        capabilities = ", ".join(sorted(self.capabilities))
        return f"VisionModel({self.name!r}, {self.structure.source}, offers {capabilities})"

    # ── what it is ────────────────────────────────────────────────────────────────────────────────────────────────
    @property
    def device(self) -> torch.device:
        """The device of the parameters, or of the buffers of a model without."""
        return next((t.device for t in chain(self.module.parameters(), self.module.buffers())), torch.device("cpu"))

    @property
    def dtype(self) -> torch.dtype:
        """The floating-point type of the parameters."""
        return next((p.dtype for p in self.module.parameters() if p.is_floating_point()), torch.float32)

    @property
    def capabilities(self) -> frozenset[Capability]:
        """What methods can get from this model; asks every weight, so not for a hot path."""
        if made_in_inference_mode(self.module):
            return self.structure.capabilities - {Capability.GRADIENTS}
        return self.structure.capabilities

    @property
    def classes(self) -> int | None:
        """The number of logits, where it is known without a forward pass."""
        if self.structure.classes is not None:
            return self.structure.classes
        if self.structure.head is not None:
            head = self.module.get_submodule(self.structure.head)
            linear = [m for m in head.modules() if isinstance(m, nn.Linear)]
            if linear:
                return linear[-1].out_features
        return len(self.class_names) if self.class_names else None

    def as_target(self, spec: TargetLike) -> Target:
        """Turn what a user writes into a `Target` of this model.

        Raises:
            TargetError: The target does not exist for this model.
            UnknownNameError: There is no class of that name.
        """
        has_logits = Capability.LOGITS in self.structure.capabilities
        if not has_logits and (self.structure.has_segmentation or self.structure.boxes_in):
            find = as_region if self.structure.has_segmentation else as_detection
            return find(as_target(spec, self.class_names))
        if not self.structure.regression:
            return as_target(spec, self.class_names, has_logits, self.text and self.embed_text)
        if spec is None and self.classes != 1:
            outputs = ", ".join(self.class_names or map(str, range(self.classes or 2)))
            raise TargetError(f"this model gives several quantities ({outputs}); say which: target={outputs[0]!r}")
        return as_outputs(as_target(0 if spec is None else spec, self.class_names, has_logits))

    def embed_text(self, prompts: Sequence[str], templates: Sequence[str] = PLAIN) -> Float[Tensor, "prompts dim"]:
        """Embed prompts where the image embeddings are, as unit vectors.

        Args:
            prompts: The texts.
            templates: Ways to put each of them (`"a photo of a {}."`), of which the mean is taken.

        Raises:
            TargetError: The model has no text side, or a prompt or template cannot be used.
        """
        if self.text is None:
            raise TargetError(
                f"{self.name} has no text side; load a CLIP or SigLIP model by name, or pass its tokenizer: "
                "wrap(model, tokenizer=…)"
            )
        return self.text(prompts, templates)

    def zero_shot(self, classes: Sequence[str], templates: Sequence[str] = PLAIN) -> VisionModel:
        """Return the same model as a classifier of these texts.

        The logits are scale · cos(image, text) + bias with the scale and bias that the model learned.

        Args:
            classes: The class names, put into the templates.
            templates: `("a photo of a {}.",)`; several are averaged.

        Raises:
            TargetError: The model has no text side, or a text cannot be used.
        """
        vectors = self.embed_text(classes, templates)
        assert self.text is not None  # else it could not have embedded them
        side = self.text.side
        structure = replace(
            self.structure,
            read=ZeroShotHead(self.structure.read, vectors, side),
            has_logits=True,
            classes=len(classes),
            multi_label=side.multi_label,
        )
        return VisionModel(
            self.module, structure, name=self.name, preprocess=self.preprocess, class_names=classes, text=self.text
        )

    def to(self, device: torch.device | str) -> VisionModel:
        """Move the module to a device and return the same model."""
        self.module.to(device)
        return self

    def missing_capabilities(self, needs: frozenset[Capability]) -> list[str]:
        """Describe which of `needs` the model does not offer."""
        missing = []
        for need in sorted(needs - self.capabilities):
            blocked = need is Capability.GRADIENTS and need in self.structure.capabilities
            cut = need is Capability.GRADIENTS and not blocked and self.structure.source == "module"
            text = CAPABILITY_TEXT[need] + (", which its forward cuts off (no_grad, detach)" if cut else "")
            missing.append(f"gradients, which do not pass {INFERENCE}" if blocked else text)
        return missing

    # ── layers and grids ──────────────────────────────────────────────────────────────────────────────────────────
    @property
    def _layers(self) -> LayerIndex:
        return LayerIndex(self.module, self.structure, self.name)

    def layer(self, spec: LayerLike | None = None, *, layout: str | None = None) -> Layer:
        """Return a layer by dotted name, module, stage number, or (None) the deepest stage.

        Args:
            spec: Which layer.
            layout: How its output lies, where that is not known: `nchw`, `nhwc`, `tokens` or `sequence`.

        Raises:
            UnknownNameError: There is no such layer; the nearest are suggested.
            LayoutError: The model has no stages to choose from, or the layer's layout is ambiguous.
        """
        return self._layers.layer(spec, layout)

    def cam_layer(self, spec: LayerLike | None = None) -> Layer:
        """Return the layer for methods that differentiate: as `layer`, but by default the deepest that still matters.

        Args:
            spec: Which layer.

        Raises:
            LayoutError: The score no longer depends on the cells of this layer (they come after the last attention
                of a model that reads its class token only), so that every map would be zero.
        """
        return self._layers.cam_layer(spec)

    def submodule(self, name: str) -> nn.Module:
        """Return the module of that dotted name.

        Raises:
            UnknownNameError: There is none; the nearest are suggested.
        """
        return self._layers.submodule(name)

    def grid(self, height: int, width: int, stride: tuple[int, int] | None = None) -> tuple[int, int]:
        """Return rows and columns of the patch grid.

        Args:
            height: Rows of the input, in pixels.
            width: Columns of the input, in pixels.
            stride: Pixels per cell (rows, cols); None: the patch size.

        Raises:
            LayoutError: The patch size is unknown.
        """
        return self._layers.grid(height, width, stride)

    def to_grid(self, value: Tensor, layer: Layer, size: Sequence[int]) -> Float[Tensor, "batch channels *grid"]:
        """Return a layer's output as (B, C, rows, cols), of volumes (B, C, depth, rows, cols), prefix tokens dropped.

        Args:
            value: The output.
            layer: The layer.
            size: The input's (height, width) in pixels.

        Raises:
            LayoutError: The tensor does not fit the layer's layout.
        """
        return self._layers.to_grid(value, layer, size)

    def tokens_to_map(
        self, values: Float[Tensor, "batch tokens"], size: Sequence[int]
    ) -> Float[Tensor, "batch rows cols"]:
        """Return per-token numbers as a map: prefix tokens dropped, patch tokens on the grid.

        Args:
            values: One number per token.
            size: The input's (height, width) in pixels.

        Raises:
            LayoutError: The number of tokens does not fit the grid.
        """
        return self._layers.tokens_to_grid(values[..., None], Layer("tokens", "tokens"), size).squeeze(1)

    # ── running it ────────────────────────────────────────────────────────────────────────────────────────────────
    def run(self, x: Float[Tensor, "batch channels *size"]) -> Output:
        """Run one forward in the caller's grad mode. Methods call this inside `untouched(model.module)`.

        Raises:
            LayoutError: The result is not what the structure says.
        """
        index, unique = current_index_of(self)
        if index is None:
            return self._forward(x)
        return self._forward(x if unique else index.unique(x)).map(index.expand)

    @property
    def image_index(self) -> ImageIndex | None:
        """Which rows of a batch show the same image, in a block of `shared_images` and outside of grad mode."""
        return image_index_of(self)

    @contextmanager
    def shared_images(self, index: Sequence[int]) -> Iterator[None]:
        """In the block, run each image of a batch once where no gradients are taken.

        What several targets of one image ask of the model is asked once.

        Args:
            index: Row i of every batch (or of each of several whole batches, one after the other) shows image
                `index[i]`.
        """
        with sharing_images(self, index):
            yield

    @contextmanager
    def unique_images(self) -> Iterator[None]:
        """In the block, `run` gets the shared images once each, also in grad mode; its output has all rows."""
        with passing_unique_images(self):
            yield

    def _forward(self, x: Tensor) -> Output:
        head_inputs: list[Tensor] = []
        head_outputs: list[Tensor] = []

        def keep(_: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            head_inputs.append(args[0].flatten(1))
            head_outputs.append(output)

        with exclusive(self.module), ExitStack() as stack:
            if self.structure.head is not None:
                stack.enter_context(hooked(self.module.get_submodule(self.structure.head), keep))
            raw = self.module(x, **self.structure.call)
        output = self.structure.read(raw, head_inputs[0] if head_inputs else None)
        if self.structure.logits_of_head:
            output = replace(output, logits=head_outputs[0])
        if output.detections is not None and self.structure.boxes_in == "pixels":
            size = torch.tensor([x.shape[-1], x.shape[-2]] * 2, dtype=output.detections.boxes.dtype)
            boxes = output.detections.boxes / size.to(x.device, non_blocking=True)
            output = replace(output, detections=replace(output.detections, boxes=boxes))
        if output.logits is not None and output.logits.ndim != 2:
            raise LayoutError(
                f"the logits have shape {tuple(output.logits.shape)}, not (batch, classes); "
                "say how to read them: wrap(module, read=…)"
            )
        return output

    @contextmanager
    def shape_error_context(self, x: Tensor) -> Iterator[None]:
        """Re-raise errors of the module, in the block, with a hint about the input size that it expects.

        Args:
            x: The batch that runs in the block.

        Raises:
            ModelError: The module fails on a batch of another size than its preprocessing makes.
        """
        try:
            yield
        except (SeewhyError, torch.OutOfMemoryError):
            raise
        except (RuntimeError, ValueError, AssertionError) as error:
            size = getattr(self.preprocess, "size", None)
            if size is None or tuple(x.shape[2:]) == tuple(size):
                raise
            fed, fits = ("×".join(map(str, sides)) for sides in (x.shape[2:], size))
            any_size = getattr(self.preprocess, "crop", "") in ("none", "pad")
            advice = "" if any_size else f"; feed {fits}: model.preprocess_images(images)"
            raise ModelError(f"{self.name} fails on an input of {fed} ({first_line(error)}){advice}") from error

    def activations(self, x: Tensor, layers: Sequence[Layer]) -> dict[str, Float[Tensor, "batch channels *grid"]]:
        """Return the maps of several layers by name, from one forward that stops at the last of them; no gradients.

        Raises:
            LayoutError: A layer did not run, or its output does not lie as the layer says.
        """
        values, index = self._collect(x, [layer.name for layer in layers])
        maps = {layer.name: self.to_grid(values[layer.name], layer, x.shape[-2:]) for layer in layers}
        return {name: index.expand(value) for name, value in maps.items()} if index else maps

    def activation(self, x: Tensor, layer: Layer) -> Float[Tensor, "batch channels *grid"]:
        """Return the map of a layer, after the ReLU that comes next if one does that is a function, not a layer.

        One forward that stops there; no gradients.

        Raises:
            LayoutError: The layer did not run, or its output does not lie as the layer says.
        """
        reading = activation_of(self.module, self.submodule(layer.name))
        with self.shape_error_context(x), torch.no_grad(), untouched(self.module), reading as found:
            self.module(x, **self.structure.call)
        return self.to_grid(found[0], layer, x.shape[-2:])

    def activation_and_output(self, x: Tensor, layer: Layer) -> tuple[Float[Tensor, "batch channels *grid"], Output]:
        """Return what `activation` returns, and the model's output, from one forward that goes on to its end.

        Raises:
            LayoutError: The layer did not run, or its output does not lie as the layer says.
        """
        reading = activation_of(self.module, self.submodule(layer.name), stop=False)
        with self.shape_error_context(x), torch.no_grad(), untouched(self.module), reading as found:
            output = self._forward(x)
        return self.to_grid(found[0], layer, x.shape[-2:]), output

    def tokens(self, x: Tensor, blocks: Sequence[int] | None = None) -> dict[int, Float[Tensor, "batch tokens dim"]]:
        """Return the outputs of transformer blocks by number, prefix tokens included; no gradients.

        Args:
            x: The batch.
            blocks: The numbers of the blocks, negative from the end; None: all.

        Raises:
            RequirementError: The model has no transformer blocks.
            UnknownNameError: There is no block of that number.
        """
        names = {i: block.name for i, block in self._blocks(blocks).items()}
        values, index = self._collect(x, names.values())
        return {i: index.expand(values[name]) if index else values[name] for i, name in names.items()}

    def block_tokens(self, x: Tensor, blocks: Sequence[int] | None = None) -> BlockTokens:
        """Run one forward in the caller's grad mode and keep the tokens of blocks attached to its graph.

        The result can read the tokens of any block through the model's head (`read_out`, the logit lens) without
        another forward of the blocks. Methods call this inside `untouched(model.module)`, and inside
        `attention(…, differentiable=True)` if they differentiate with respect to attention as well.

        Args:
            x: The batch.
            blocks: The numbers of the blocks, negative from the end; None: all.

        Raises:
            RequirementError: The model has no transformer blocks.
            UnknownNameError: There is no block of that number.
        """
        wanted = self._blocks(blocks)
        modules = {block.name: self.submodule(block.name) for block in wanted.values()}
        tail = Tail(self.module, self.structure.blocks[-1].name, x)
        with self.shape_error_context(x), tail.recording(), tapping(modules) as values:
            output = self._forward(x)
        tokens = {i: values[block.name] for i, block in wanted.items()}
        return BlockTokens(tokens, output, ModelTail(self._forward, tail))

    def _collect(self, x: Tensor, names: Iterable[str]) -> tuple[Mapping[str, Tensor], ImageIndex | None]:
        """Return the raw outputs of modules by name, and which rows of `x` they stand for if images are shared."""
        modules = {name: self.submodule(name) for name in names}
        with self.shape_error_context(x), torch.no_grad(), untouched(self.module), collecting(modules) as values:
            # no gradients in this block, so shared images run once even if the caller is in grad mode
            index = image_index_of(self)
            self.module(index.unique(x) if index else x, **self.structure.call)
        return values, index

    @contextmanager
    def leaf_at(self, layer: Layer, at_input: bool = False) -> Iterator[list[Tensor]]:
        """In the block, forwards have gradients above `layer` only.

        Args:
            layer: The layer.
            at_input: Whether gradients begin at the layer's input, so that it is above as well.

        Yields:
            A list that will hold the layer's output (or input), a leaf.

        Raises:
            LayoutError: The layer did not run in the block, or more than once.
        """
        with exclusive(self.module), cut(self.submodule(layer.name), at_input) as leaf:
            yield leaf

    def tail(self, x: Tensor, layer: Layer, at_input: bool = False) -> ModelTail:
        """Run what is below `layer` once, and return what runs the part above it as often as needed.

        Args:
            x: The batch.
            layer: The layer.
            at_input: Whether the layer itself is part of what is run often: the values are then its input's.

        Raises:
            LayoutError: The layer did not run, its output does not begin with the batch, or (`at_input`) its first
                argument is no tensor.
        """
        if layer.layout == "sequence":
            raise LayoutError(f"{layer.name!r} keeps (tokens, batch, dim); make the module with batch_first=True")
        return ModelTail(self._forward, Tail.of(self.module, layer.name, x, self.structure.call, at_input))

    def class_token_tail(self, x: Tensor, at_input: bool = False) -> ClassTokenTail:
        """Run what is below the last block's attention once, and return what runs its class token from there on.

        Of images that several targets share (`shared_images`) one row each is run.

        Args:
            x: The batch.
            at_input: Whether the cut is at the block's input, below its first norm.

        Raises:
            NoClassRow: The head reads more than the class token, or tokens do not come batch first.
        """
        if not self.structure.class_token or self.structure.reads_patches:
            raise NoClassRow("the head reads more than the class token")
        block, index = self.structure.blocks[-1], image_index_of(self)
        tail = Tail.of(
            self.module,
            block.name if at_input else block.norm1,
            x if index is None else index.unique(x),
            self.structure.call,
            at_input,
        )
        norm = self.submodule(block.norm1) if at_input else None
        return ClassTokenTail(self._forward, tail, norm, self.submodule(block.attention))

    @contextmanager
    def attention(
        self,
        receive: AttentionReceiver,
        x: Tensor,
        blocks: Sequence[int] | None = None,
        rows: slice = slice(None),
        differentiable: bool = False,
    ) -> Iterator[None]:
        """In the block, forwards hand out their attention matrices.

        Args:
            receive: Called with the number of a block and its matrix, (B, heads, rows, N). One that has seen enough
                raises `Stop`: the forward and the block then end.
            x: The batch that runs in the block.
            blocks: The numbers of the blocks, negative from the end; None: all.
            rows: The query rows to form; ignored when differentiable.
            differentiable: Whether gradients with respect to the matrices are wanted.

        Raises:
            RequirementError: The model has no transformer blocks.
            UnknownNameError: There is no block of that number.
            LayoutError: The attention of a block cannot be read.
        """
        modules = {i: self.submodule(b.attention) for i, b in self._blocks(blocks).items()}
        reading = reading_attention(modules, receive, batch=x.shape[0], rows=rows, differentiable=differentiable)
        with exclusive(self.module), suppress(Stop), reading:
            yield

    def _blocks(self, blocks: Sequence[int] | None) -> dict[int, Block]:
        depth = len(self.structure.blocks)
        if not depth:
            raise RequirementError(
                f"{self.name} has no transformer blocks with global attention; "
                f"`seewhy info {self.name}` lists the methods that work"
            )
        for number in blocks or ():
            if not -depth <= number < depth:
                raise UnknownNameError("block", str(number), [str(i) for i in range(depth)])
        numbers = range(depth) if blocks is None else [number % depth for number in blocks]
        return {i: self.structure.blocks[i] for i in numbers}

    # ── for people ────────────────────────────────────────────────────────────────────────────────────────────────
    def preprocess_images(self, images: ImageLike | Sequence[ImageLike]) -> Float[Tensor, "batch channels *size"]:
        """Preprocess images into the batch that the model expects, on its device.

        Args:
            images: One or more paths, PIL images, arrays or tensors; of a 3-D model volumes.

        Raises:
            ImageError: An image cannot be read.
        """
        if self.structure.volume:
            return self.preprocess_batch([opened_volume(each, self.channels)() for each in as_volumes(images)])
        return self.preprocess_batch([self.opened(image)() for image in as_list(images)])

    @property
    def channels(self) -> int | None:
        """How many channels the model's input has; None where only a preprocess function of the user's own knows."""
        return getattr(self.preprocess, "channels", None)

    def opened(self, image: ImageLike, max_pixels: int = MAX_PIXELS) -> Callable[[], ReadImage]:
        """Check an image's size and format, and return what decodes it, with all its levels and channels.

        Args:
            image: A path, PIL image, array or tensor.
            max_pixels: Larger files are refused before they are decoded.

        Raises:
            ImageError: It cannot be read, as far as its header tells.
        """
        return opened(image, channels=self.channels, max_pixels=max_pixels)

    def preprocess_batch(self, images: Sequence[ReadImage | Volume]) -> Float[Tensor, "batch channels *size"]:
        """Preprocess images that are read already; see `preprocess_images`.

        Raises:
            ImageError: The inputs differ in size.
        """
        inputs = [self._input(image) for image in images]
        if len({tuple(x.shape) for x in inputs}) > 1:
            raise ImageError("the images have different sizes after preprocessing; pass them one by one")
        return torch.stack(inputs).to(self.device, self.dtype)

    def _input(self, image: ReadImage | Volume) -> Tensor:
        """Return the model's input for one image; functions of the user's own get it as it came."""
        if isinstance(image, Volume):
            return self._volume_input(image)
        if not isinstance(image, DeepImage) or isinstance(self.preprocess, Preprocess):
            return one_input(self.preprocess(image))  # type: ignore[arg-type]  # a Preprocess takes both
        native = image.native()
        try:
            return one_input(self.preprocess(native))  # type: ignore[arg-type]
        except (TypeError, AttributeError, ValueError) as error:
            what = "array (rows, cols, channels)" if isinstance(native, np.ndarray) else f"image of mode {native.mode}"
            raise ImageError(
                f"{image.name} reached preprocess as it is, an {what} of {image.values.dtype}, and that failed "
                f"({first_line(error)}); convert it in preprocess, or pass an 8-bit RGB image"
            ) from error

    def _volume_input(self, volume: Volume) -> Tensor:
        if isinstance(self.preprocess, VolumePreprocess):
            return self.preprocess(volume)
        try:
            x = torch.as_tensor(self.preprocess(volume.values))  # type: ignore[arg-type]
        except (TypeError, AttributeError, ValueError, RuntimeError) as error:
            raise ImageError(
                f"{volume.name} reached preprocess as it is, an array (channels, depth, rows, cols) of "
                f"{volume.values.dtype}, and that failed ({first_line(error)}); mend preprocess"
            ) from error
        if x.ndim != 4:
            raise ImageError(f"preprocess gave shape {tuple(x.shape)}; return (channels, depth, rows, cols)")
        return x

    def box(self, image: ReadImage) -> tuple[float, float, float, float] | None:
        """Return the region of the image that the model sees (left, top, right, bottom in pixels), where known."""
        find = getattr(self.preprocess, "box", None)
        return None if find is None else find(image)

    def visible_region(self, image: ReadImage) -> Image.Image:
        """Return the region of the image that the model sees, in the image's own resolution where that is known."""
        crop: Callable[[ReadImage], Image.Image] | None = getattr(self.preprocess, "visible_region", None)
        if crop is not None:
            return crop(image)
        pixels = self._input(image).float()
        pixels = (pixels - pixels.min()) / (pixels.max() - pixels.min()).clamp(min=1e-12)
        return load_image(pixels if pixels.shape[0] in (1, 3) else pixels[:1])

    def probabilities(self, logits: Float[Tensor, "batch classes"]) -> Float[Tensor, "batch classes"]:
        """Compute the softmax over classes, or a sigmoid for each where the classes do not exclude each other.

        A single logit is that of "yes" against "no". Quantities of a regression head stay as they are.
        """
        if self.structure.regression:
            return logits
        return logits.sigmoid() if self.structure.multi_label or logits.shape[-1] == 1 else logits.softmax(-1)

    def output(self, images: ImageLike | Sequence[ImageLike]) -> Output:
        """Compute logits and embedding of images, with the model's own preprocessing.

        Raises:
            NonFiniteError: The model gives NaN or infinity.
        """
        return self.forward_checked(self.preprocess_images(images))

    @torch.no_grad()
    def forward_checked(self, x: Float[Tensor, "batch channels *size"]) -> Output:
        """Compute the output for a preprocessed batch, without gradients.

        Raises:
            NonFiniteError: The model gives NaN or infinity.
        """
        with self.shape_error_context(x), untouched(self.module):
            output = self.run(x)
        return self.ensure_finite(output)

    def ensure_finite(self, output: Output) -> Output:
        """Return the output of this model as it is.

        Raises:
            NonFiniteError: There is NaN or infinity in it.
        """
        for value in output.tensors:
            if not torch.isfinite(value).all():
                raise NonFiniteError(
                    f"{self.name} gives NaN or infinite values for this input; check the weights, "
                    "the preprocessing, and whether half precision overflows"
                )
        return output

    def predict(self, images: ImageLike | Sequence[ImageLike]) -> Float[Tensor, "batch classes"]:
        """Compute the logits of images.

        Raises:
            TargetError: The model has no class scores.
        """
        return self.output(images).require(Capability.LOGITS)

    def embed(self, images: ImageLike | Sequence[ImageLike]) -> Float[Tensor, "batch dim"]:
        """Compute the embeddings of images.

        Raises:
            TargetError: The model has no embedding.
        """
        return self.output(images).require(Capability.EMBEDDING)

    def with_size(self, rows: int, cols: int) -> VisionModel:
        """Return the same model fed with images of another size (where the architecture allows it).

        Raises:
            ModelError: Its preprocessing is a function of the user's own.
        """
        if not isinstance(self.preprocess, Preprocess):
            raise ModelError("this model has its own preprocess function; make one for the other size and wrap again")
        return VisionModel(
            self.module,
            self.structure,
            name=self.name,
            class_names=self.class_names,
            preprocess=self.preprocess.with_size(rows, cols),
            text=self.text,
        )
