"""Structure of a model: its layers, blocks, tokens and head, as a source (torchvision, timm, …) describes them.

Users whose model is found wrongly, or not at all, make a `Structure` of their own: `seewhy.wrap(module, structure=…)`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from seewhy.core.cards import Capability
from seewhy.errors import LayoutError, UnknownNameError
from seewhy.targets import Output

LAYOUTS = ("nchw", "nhwc", "tokens", "sequence", "ncdhw", "ndhwc")
"""How the output of a layer lies: (B, C, rows, cols), (B, rows, cols, C), (B, prefix + rows·cols, C), or the same
sequence-first, (prefix + rows·cols, B, C); in a 3-D model (B, C, depth, rows, cols) or (B, depth, rows, cols, C)."""

ReadOutput = Callable[[Any, Tensor | None], Output]
"""From what a module returns and its head's input (None: there is no head) to an `Output`."""


@dataclass(frozen=True)
class Layer:
    """A module whose output lies on a grid.

    Attributes:
        name: Dotted name in the module.
        layout: One of `LAYOUTS`: `nchw`, `nhwc`, `tokens` …
        stride: Input pixels per grid cell (rows, cols), for tokens; None: the model's patch size.
        prefix: Tokens before the patch tokens; None: the model's number.
        order: Where the patch tokens do not come row by row: for each row and column, which patch token lies there.
    """

    name: str
    layout: str
    stride: tuple[int, int] | None = None
    prefix: int | None = None
    order: tuple[tuple[int, ...], ...] | None = None

    def __post_init__(self) -> None:
        if self.layout not in LAYOUTS:
            raise UnknownNameError("layout", self.layout, LAYOUTS)


@dataclass(frozen=True)
class Block:
    """A transformer block with global self-attention.

    Attributes:
        name: Dotted name of the block.
        norm1: Dotted name of its first norm, before the attention.
        attention: Dotted name of its attention.
    """

    name: str
    norm1: str
    attention: str


def read_tensor(raw: Any, embedding: Tensor | None) -> Output:
    """Read the usual result of a model: a tensor of logits if there is a head, else of embeddings.

    Raises:
        LayoutError: The result is no tensor.
    """
    if not isinstance(raw, Tensor):
        raise LayoutError(
            f"the model returns {type(raw).__name__}, not a tensor; "
            "tell which part is what: wrap(module, read=lambda raw, embedding: Output(logits=raw[...]))"
        )
    if embedding is None:
        return Output(embedding=raw.flatten(1))
    return Output(logits=raw, embedding=embedding)


@dataclass(frozen=True)
class OppositeLogits:
    """Reads the one logit of a yes-or-no head as the logits (−z, z) of "no" and "yes".

    Attributes:
        read: How the one logit is read.
    """

    read: ReadOutput

    def __call__(self, raw: Any, head_input: Tensor | None) -> Output:
        """Return both logits: the sigmoid of each is its probability, and the two add up to one."""
        output = self.read(raw, head_input)
        if output.logits is None or output.logits.shape[1:] != (1,):
            return output
        return Output(logits=torch.cat([-output.logits, output.logits], 1), embedding=output.embedding)


@dataclass(frozen=True)
class Structure:
    """Layers, blocks, tokens and head of a model. Each source makes these; users can make their own.

    Attributes:
        source: Where the model comes from (`timm`, `hf`, `torchvision`, `open_clip`, `module` …).
        stages: Layers on a grid from shallow to deep (for a ViT: the block outputs).
        cam_layer: The deepest layer on a grid whose cells all still reach the score. For a ViT the norm before
            the last attention: after it, a class token no longer listens to the patches.
        ask: Why there is no such layer, and no deepest stage, to take by default; methods then want `layer=`.
        blocks: Transformer blocks with global attention, in order.
        prefix_tokens: Class, register and distillation tokens before the patch tokens.
        class_token: Whether the first token is a class token that pools the image.
        reads_patches: Whether the head reads the final patch tokens beside the class token.
        patch_size: Pixels per patch (rows, cols).
        pads: Whether an image that is no multiple of the patch is padded to one; else its last pixels are dropped.
        head: The module from embedding to logits, if there is one: its input is the embedding.
        read: From the module's raw result and the head's input to an `Output`.
        logits_of_head: Whether the logits are the head's output, because the result is made from it (a softmax).
        call: Further keywords of each call (`{"interpolate_pos_encoding": True}`).
        has_logits: Whether the result holds class scores; None: if there is a head.
        has_embedding: Whether there is an embedding; False for class scores that do not come out of a head.
        has_gradients: Whether autograd sees through it; False for a function that only answers.
        classes: The number of logits, where the head does not tell.
        multi_label: Whether each logit stands for itself (sigmoid), not against the others (softmax).
        regression: Whether the result holds quantities (ages, sizes), which have no probabilities.
        has_segmentation: Whether the result holds class scores for each pixel.
        volume: Whether it takes volumes (B, C, depth, rows, cols) instead of images.
        boxes_in: Of a detector, what its boxes are measured in, `pixels` of the input or `fractions` of it.
        note: What a person should know (`seewhy info` prints it).
    """

    source: str
    stages: tuple[Layer, ...] = ()
    cam_layer: Layer | None = None
    ask: str = ""
    blocks: tuple[Block, ...] = ()
    prefix_tokens: int = 0
    class_token: bool = False
    reads_patches: bool = False
    patch_size: tuple[int, int] | None = None
    pads: bool = True
    head: str | None = None
    read: ReadOutput = read_tensor
    logits_of_head: bool = False
    call: dict[str, Any] = field(default_factory=dict[str, Any])
    has_logits: bool | None = None
    has_embedding: bool = True
    has_gradients: bool = True
    classes: int | None = None
    multi_label: bool = False
    regression: bool = False
    has_segmentation: bool = False
    volume: bool = False
    boxes_in: str | None = None
    note: str = ""

    def with_opposite_logits(self) -> Structure:
        """Return the structure of a one-logit head with a logit for "no" beside the one for "yes"."""
        return replace(self, read=OppositeLogits(self.read), classes=2, multi_label=True)

    def below(self, prefix: str) -> Structure:
        """Return the structure of a module in which this one has become a part.

        Args:
            prefix: What the names of its modules now begin with, `backbone.`.
        """

        def layer(old: Layer) -> Layer:
            return replace(old, name=prefix + old.name)

        return replace(
            self,
            stages=tuple(map(layer, self.stages)),
            cam_layer=layer(self.cam_layer) if self.cam_layer else None,
            blocks=tuple(Block(*(prefix + name for name in (b.name, b.norm1, b.attention))) for b in self.blocks),
            head=None if self.head is None else prefix + self.head,
        )

    @property
    def axes(self) -> int:
        """How many axes an input and a map have: rows and columns, of volumes depth as well."""
        return 3 if self.volume else 2

    @property
    def capabilities(self) -> frozenset[Capability]:
        """What the model offers to methods."""
        logits = self.head is not None if self.has_logits is None else self.has_logits
        offered = {
            Capability.LOGITS: logits,
            Capability.EMBEDDING: self.has_embedding,
            Capability.GRADIENTS: self.has_gradients,
            Capability.FEATURES: bool(self.stages),
            Capability.TOKENS: bool(self.blocks),
            Capability.ATTENTION: bool(self.blocks),
            Capability.LAST_BLOCK: bool(self.blocks),
            Capability.CLASS_TOKEN: self.class_token,
            Capability.SEGMENTATION: self.has_segmentation,
            Capability.DETECTIONS: self.boxes_in is not None,
        }
        return frozenset(capability for capability, is_offered in offered.items() if is_offered)
