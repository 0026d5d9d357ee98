"""The one contract between models and methods: a `VisionModel`, whatever library the module is from.

A source (torchvision, timm, …) has one file that fills in a `Structure`; everything else works on `VisionModel`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from itertools import chain

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn

from seewhy.core.cards import CAPABILITY_TEXT, Capability
from seewhy.core.images import ImageLike, load_image, load_images
from seewhy.core.preprocess import Preprocess
from seewhy.errors import (
    ImageError,
    LayoutError,
    ModelError,
    NonFiniteError,
    RequirementError,
    SeewhyError,
    UnknownNameError,
)
from seewhy.models.instrument.attention import reading_attention
from seewhy.models.instrument.hooks import (
    INFERENCE,
    Stop,
    Tail,
    collecting,
    cut,
    hooked,
    made_in_inference_mode,
    untouched,
)
from seewhy.models.instrument.shared_images import image_index_of, sharing_images
from seewhy.models.structure import Block, Layer, Structure
from seewhy.targets import Output, Target, TargetLike, as_target


class VisionModel:
    """A module, how to feed it, and where it keeps what.

    Made by `seewhy.load_model` and `seewhy.wrap`. The module is never changed: each call leaves weights, modes,
    hooks, gradients, buffers and the random state as they were.
    """

    def __init__(
        self,
        module: nn.Module,
        structure: Structure,
        *,
        name: str = "",
        preprocess: Callable[[Image.Image], Tensor] | None = None,
        class_names: Sequence[str] | None = None,
    ) -> None:
        self.module = module
        self.structure = structure
        self.name = name or type(module).__name__
        self.preprocess = preprocess or Preprocess()
        self.class_names = tuple(class_names) if class_names else None

    def __repr__(self) -> str:
        return f"VisionModel({self.name!r}, {self.structure.source}, offers {', '.join(sorted(self.capabilities))})"

    # ── what it is ────────────────────────────────────────────────────────────────────────────────────────────────
    @property
    def device(self) -> torch.device:
        """Where the parameters are, or the buffers of a model without."""
        return next((t.device for t in chain(self.module.parameters(), self.module.buffers())), torch.device("cpu"))

    @property
    def dtype(self) -> torch.dtype:
        """The floating-point type of the parameters."""
        return next((p.dtype for p in self.module.parameters() if p.is_floating_point()), torch.float32)

    @property
    def capabilities(self) -> frozenset[Capability]:
        """What methods can get from this model; asks every weight, so not for a hot path."""
        return self.structure.capabilities - ({Capability.GRADIENTS} if made_in_inference_mode(self.module) else set())

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
        """What a user writes as a `Target` of this model; errors as for `seewhy.targets.as_target`."""
        return as_target(spec, self.class_names, Capability.LOGITS in self.structure.capabilities)

    def to(self, device: torch.device | str) -> VisionModel:
        """Move the module; returns self."""
        self.module.to(device)
        return self

    def missing_capabilities(self, needs: frozenset[Capability]) -> list[str]:
        """In words, which of `needs` the model does not offer."""
        lacking = needs - self.capabilities
        return [
            f"gradients, which do not pass {INFERENCE}"
            if n is Capability.GRADIENTS and n in self.structure.capabilities
            else CAPABILITY_TEXT[n]
            for n in sorted(lacking)
        ]

    # ── layers and grids ──────────────────────────────────────────────────────────────────────────────────────────
    def layer(self, spec: str | int | nn.Module | Layer | None = None, *, layout: str | None = None) -> Layer:
        """A layer by dotted name, module, stage number, or (None) the deepest stage.

        Raises:
            UnknownNameError: no such layer; the nearest are suggested.
            LayoutError: the model has no stages to choose from.
        """
        if isinstance(spec, Layer):
            self.submodule(spec.name)
            return spec
        if spec is None or isinstance(spec, int):
            return self._stage(-1 if spec is None else spec)
        name = self._name_of(spec) if isinstance(spec, nn.Module) else spec
        self.submodule(name)
        if layout is not None:
            return Layer(name, layout)
        known = {known.name: known for known in (*self.structure.stages, self.structure.cam_layer) if known}
        if name in known:
            return known[name]
        return Layer(name, self._guess_layout(name))

    def _stage(self, index: int) -> Layer:
        stages = self.structure.stages
        if not stages:
            raise LayoutError(f"{self.name} has no feature maps that seewhy knows of; name one with layer=")
        if not -len(stages) <= index < len(stages):
            raise UnknownNameError("stage", str(index), [str(i) for i in range(len(stages))])
        return stages[index]

    def cam_layer(self, spec: str | int | nn.Module | Layer | None = None) -> Layer:
        """The layer for methods that differentiate: as `layer`, but by default the deepest that still matters.

        Raises:
            LayoutError: the score no longer depends on the cells of this layer (they come after the last attention
                of a model that reads its class token only), so that every map would be zero.
        """
        layer = self.layer(spec) if spec is not None else self.structure.cam_layer or self._stage(-1)
        alone = self.structure.class_token and not self.structure.reads_patches
        if alone and self.structure.blocks and self._after_last_attention(layer.name):
            raise LayoutError(
                f"the score does not depend on the patch tokens of {layer.name!r}, after the last "
                f"attention; use layer={self.structure.blocks[-1].norm1!r}"
            )
        return layer

    def _after_last_attention(self, name: str) -> bool:
        last = self.structure.blocks[-1]
        if name == last.name or name.startswith(f"{last.name}."):
            # modules need not be defined in the order in which they run, so inside the block go by role
            return name != last.norm1 and not name.startswith(last.attention)
        order = [n for n, _ in self.module.named_modules()]
        return order.index(name) > order.index(last.name)

    def submodule(self, name: str) -> nn.Module:
        """The module of that dotted name, or `UnknownNameError` with the nearest names."""
        try:
            return self.module.get_submodule(name)
        except AttributeError:
            known = [n for n, _ in self.module.named_modules() if n]
            raise UnknownNameError("layer", name, known, f"`seewhy info {self.name}` lists the stages") from None

    def _name_of(self, module: nn.Module) -> str:
        for name, candidate in self.module.named_modules():
            if candidate is module:
                return name
        raise UnknownNameError("layer", type(module).__name__, [], "it is not part of this model")

    def _guess_layout(self, name: str) -> str:
        """The layout of an unlisted layer from the module's own kind, else that of the stage it belongs to."""
        module = self.submodule(name)
        if isinstance(
            module,
            (nn.Conv2d, nn.modules.batchnorm._BatchNorm, nn.modules.pooling._MaxPoolNd, nn.modules.pooling._AvgPoolNd),
        ):
            return "nchw"
        layouts = {stage.layout for stage in self.structure.stages}
        inside = [s.layout for s in self.structure.stages if name.startswith(s.name + ".")]
        if inside or len(layouts) == 1:
            return inside[0] if inside else layouts.pop()
        raise LayoutError(f"the layout of {name!r} is ambiguous; say layout='nchw', 'nhwc' or 'tokens'")

    def grid(self, height: int, width: int, stride: tuple[int, int] | None = None) -> tuple[int, int]:
        """Rows and columns of the patch grid for an input of height × width pixels."""
        stride = stride or self.structure.patch_size
        if stride is None:
            raise LayoutError(f"{self.name}: the patch size is unknown; wrap(module, patch_size=…)")
        if not self.structure.pads:
            return height // stride[0], width // stride[1]
        return -(-height // stride[0]), -(-width // stride[1])

    def to_grid(self, value: Tensor, layer: Layer, size: Sequence[int]) -> Float[Tensor, "batch channels rows cols"]:
        """A layer's output as (B, C, rows, cols), prefix tokens dropped; `size` is the input's (H, W).

        Raises:
            LayoutError: the tensor does not fit the layer's layout.
        """
        if layer.layout == "tokens":
            return self._tokens_to_grid(value, layer, size)
        if value.ndim != 4:
            raise LayoutError(
                f"layer {layer.name!r} gives shape {tuple(value.shape)}, not a {layer.layout} map; "
                "choose a layer on a grid, or say layout='tokens'"
            )
        return value.permute(0, 3, 1, 2) if layer.layout == "nhwc" else value

    def _tokens_to_grid(self, value: Tensor, layer: Layer, size: Sequence[int]) -> Tensor:
        rows, cols = self.grid(*size, layer.stride)
        prefix = self.structure.prefix_tokens if layer.prefix is None else layer.prefix
        if value.ndim != 3 or value.shape[1] != prefix + rows * cols:
            raise LayoutError(
                f"layer {layer.name!r} gives shape {tuple(value.shape)}, not "
                f"(batch, {prefix} + {rows}×{cols}, channels); "
                "wrap(module, patch_size=…, prefix_tokens=…) tells how they lie"
            )
        return value[:, prefix:].transpose(1, 2).unflatten(2, (rows, cols))

    def tokens_to_map(
        self, values: Float[Tensor, "batch tokens"], size: Sequence[int]
    ) -> Float[Tensor, "batch rows cols"]:
        """Per-token numbers as a map: prefix tokens dropped, patch tokens on the grid."""
        return self._tokens_to_grid(values[..., None], Layer("tokens", "tokens"), size).squeeze(1)

    # ── running it ────────────────────────────────────────────────────────────────────────────────────────────────
    def run(self, x: Float[Tensor, "batch channels height width"]) -> Output:
        """One forward in the caller's grad mode. Methods call this inside `untouched(model.module)`."""
        repeats = image_index_of(self)
        if repeats is None:
            return self._forward(x)
        output = self._forward(repeats.once(x))
        return Output(*(None if t is None else repeats.spread(t) for t in (output.logits, output.embedding)))

    @contextmanager
    def shared_images(self, index: Sequence[int]) -> Iterator[None]:
        """In the block, batches are known to repeat pictures, and without gradients each is run once.

        Row i of every batch (or of each of several whole batches, one after the other) shows picture `index[i]`: what
        several targets of one picture ask of the model is asked once.
        """
        with sharing_images(self, index):
            yield

    def _forward(self, x: Tensor) -> Output:
        box: list[Tensor] = []
        with ExitStack() as stack:
            if self.structure.head is not None:
                stack.enter_context(
                    hooked(
                        self.module.get_submodule(self.structure.head),
                        lambda _, args, __: box.append(args[0].flatten(1)),
                    )
                )
            raw = self.module(x, **self.structure.call)
        output = self.structure.read(raw, box[0] if box else None)
        if output.logits is not None and output.logits.ndim != 2:
            raise LayoutError(f"the logits have shape {tuple(output.logits.shape)}, not (batch, classes); give read=")
        return output

    @contextmanager
    def shape_error_context(self, x: Tensor) -> Iterator[None]:
        """In the block, an error of the module about a batch of another size than it was made for says so.

        Raises:
            ModelError: the module cannot take this size.
        """
        try:
            yield
        except (SeewhyError, torch.OutOfMemoryError):
            raise
        except (RuntimeError, ValueError, AssertionError) as error:
            size = getattr(self.preprocess, "size", None)
            if size is None or tuple(x.shape[-2:]) == tuple(size):
                raise
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise ModelError(
                f"{self.name} fails on an input of {x.shape[-2]}×{x.shape[-1]} ({reason}); "
                f"feed {size[0]}×{size[1]}: model.preprocess_images(images)"
            ) from error

    def activations(self, x: Tensor, layers: Sequence[Layer]) -> dict[str, Float[Tensor, "batch channels rows cols"]]:
        """The maps of several layers by name, from one forward that stops at the last of them; no gradients."""
        found = self._collect(x, [layer.name for layer in layers])
        return {layer.name: self.to_grid(found[layer.name], layer, x.shape[-2:]) for layer in layers}

    def tokens(self, x: Tensor, blocks: Sequence[int] | None = None) -> dict[int, Float[Tensor, "batch tokens dim"]]:
        """The outputs of transformer blocks (all of them, or those numbered), prefix tokens included."""
        names = {i: block.name for i, block in self._blocks(blocks).items()}
        found = self._collect(x, names.values())
        return {i: found[name] for i, name in names.items()}

    def _collect(self, x: Tensor, names: Iterable[str]) -> dict[str, Tensor]:
        """The raw outputs of modules, by name."""
        modules = {name: self.submodule(name) for name in names}
        with self.shape_error_context(x), torch.no_grad(), untouched(self.module), collecting(modules) as found:
            repeats = image_index_of(self)
            self.module(repeats.once(x) if repeats else x, **self.structure.call)
        return {name: repeats.spread(value) for name, value in found.items()} if repeats else found

    @contextmanager
    def leaf_at(self, layer: Layer) -> Iterator[list[Tensor]]:
        """Forwards in the block have gradients above `layer` only; yields a list that will hold its leaf."""
        with cut(self.submodule(layer.name)) as leaf:
            yield leaf

    def tail(self, x: Tensor, layer: Layer) -> ModelTail:
        """Run what is below `layer` once; the result runs what is above as often as needed."""
        return ModelTail(self, Tail(self.module, layer.name, x, self.structure.call))

    @contextmanager
    def attention(
        self,
        receive: Callable[[int, Tensor], None],
        x: Tensor,
        blocks: Sequence[int] | None = None,
        rows: slice = slice(None),
        differentiable: bool = False,
    ) -> Iterator[None]:
        """Forwards in the block hand `receive(block, matrix)` the attention matrices, (B, heads, rows, N).

        A `receive` that has seen enough raises `Stop`: the forward and the block then end.
        """
        modules = {i: self.submodule(b.attention) for i, b in self._blocks(blocks).items()}
        reading = reading_attention(modules, receive, batch=x.shape[0], rows=rows, differentiable=differentiable)
        with suppress(Stop), reading:
            yield

    def _blocks(self, blocks: Sequence[int] | None) -> dict[int, Block]:
        depth = len(self.structure.blocks)
        if not depth:
            raise RequirementError(
                f"{self.name} has no transformer blocks with global attention; "
                f"`seewhy info {self.name}` lists the methods that work"
            )
        numbers = range(depth) if blocks is None else [b % depth if -depth <= b < depth else b for b in blocks]
        for number in numbers:
            if number >= depth or number < 0:
                raise UnknownNameError("block", str(number), [str(i) for i in range(depth)])
        return {i: self.structure.blocks[i] for i in numbers}

    # ── for people ────────────────────────────────────────────────────────────────────────────────────────────────
    def preprocess_images(
        self, images: ImageLike | Sequence[ImageLike]
    ) -> Float[Tensor, "batch channels height width"]:
        """Images as the batch that the model expects, on its device.

        Raises:
            ImageError: an image cannot be read.
        """
        return self.preprocess_batch(load_images(images))

    def preprocess_batch(self, pictures: Sequence[Image.Image]) -> Float[Tensor, "batch channels height width"]:
        """`prepare` for pictures that are read already."""
        inputs = [self.preprocess(picture) for picture in pictures]
        if len({tuple(x.shape) for x in inputs}) > 1:
            raise ImageError("the photos have different sizes after preprocessing; give them one by one")
        return torch.stack(inputs).to(self.device, self.dtype)

    def visible_region(self, picture: Image.Image) -> Image.Image:
        """The region of the picture that the model sees, in the picture's own resolution where that is known."""
        if hasattr(self.preprocess, "visible_region"):
            return self.preprocess.visible_region(picture)
        pixels = self.preprocess(picture).float()
        pixels = (pixels - pixels.min()) / (pixels.max() - pixels.min()).clamp(min=1e-12)
        return load_image(pixels if pixels.shape[0] in (1, 3) else pixels[:1])

    def probabilities(self, logits: Float[Tensor, "batch classes"]) -> Float[Tensor, "batch classes"]:
        """Softmax over classes, or a sigmoid for each where the classes do not exclude each other."""
        return logits.sigmoid() if self.structure.multi_label else logits.softmax(-1)

    def output(self, images: ImageLike | Sequence[ImageLike]) -> Output:
        """Logits and embedding of images, with the model's own preprocessing.

        Raises:
            NonFiniteError: the model gives NaN or infinity.
        """
        return self.forward_checked(self.preprocess_images(images))

    @torch.no_grad()
    def forward_checked(self, x: Float[Tensor, "batch channels height width"]) -> Output:
        """The output for a preprocessed batch, or `NonFiniteError`."""
        with self.shape_error_context(x), untouched(self.module):
            output = self.run(x)
        for value in (output.logits, output.embedding):
            if value is not None and not torch.isfinite(value).all():
                raise NonFiniteError(
                    f"{self.name} gives NaN or infinite values for this input; check the weights, "
                    "the preprocessing, and whether half precision overflows"
                )
        return output

    def predict(self, images: ImageLike | Sequence[ImageLike]) -> Float[Tensor, "batch classes"]:
        """The logits of images.

        Raises:
            TargetError: the model has no class scores.
        """
        return self.output(images).require(Capability.LOGITS)

    def embed(self, images: ImageLike | Sequence[ImageLike]) -> Float[Tensor, "batch dim"]:
        """The embeddings of images."""
        return self.output(images).require(Capability.EMBEDDING)

    def with_size(self, rows: int, cols: int) -> VisionModel:
        """The same model fed with images of another size (where the architecture allows it)."""
        if not isinstance(self.preprocess, Preprocess):
            raise ModelError("this model has its own preprocess function; make one for the other size and wrap again")
        return VisionModel(
            self.module,
            self.structure,
            name=self.name,
            class_names=self.class_names,
            preprocess=self.preprocess.with_size(rows, cols),
        )


class ModelTail:
    """`Tail` of a `VisionModel`: from values at a layer to an `Output`."""

    def __init__(self, model: VisionModel, tail: Tail) -> None:
        self._model, self._tail = model, tail

    @property
    def value(self) -> Tensor:
        """The layer's output for the batch, without gradients."""
        return self._tail.value

    def __call__(self, values: Tensor) -> Output:
        """Run the part above the layer on `values`, (n·B, …): n whole batches one after the other."""
        with self._tail.put(values) as x:
            return self._model.run(x)
