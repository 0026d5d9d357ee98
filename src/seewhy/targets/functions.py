"""Targets that are a function of the logits or the embedding: concepts, reference images, anything else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from seewhy.core.cards import Capability
from seewhy.core.images import ImageLike, as_list, image_paths
from seewhy.errors import ImageError, TargetError, UnknownNameError
from seewhy.targets.base import Output, Target


class Embedder(Protocol):
    """Protocol of what a concept is made with: a `VisionModel`."""

    def embed(self, images: ImageLike | Sequence[ImageLike], /) -> Float[Tensor, "batch dim"]:
        """Return the embeddings of images."""
        ...


MEASURES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "dot": lambda embedding, vector: (embedding * vector).sum(-1),
    "cosine": lambda embedding, vector: F.cosine_similarity(embedding, vector, dim=-1),
    "l2": lambda embedding, vector: -(embedding - vector).norm(dim=-1),
}
"""Similarities of an embedding to a vector."""


@dataclass(frozen=True, eq=False)
class Similarity(Target):
    """Similarity of the embedding to a vector: a concept's mean embedding, or a reference image's.

    Attributes:
        vector: (dim,) for all images, or (B, dim).
        measure: `dot` (CDAM, eq. 3: not normalized), `cosine`, or `l2` (negative distance).
        name: What people call it.
    """

    vector: Float[Tensor, "..."]
    measure: str = "dot"
    name: str = "concept"
    kind: str = "concept"
    need = Capability.EMBEDDING

    def __post_init__(self) -> None:
        if self.measure not in MEASURES:
            raise UnknownNameError("similarity", self.measure, MEASURES)
        if self.vector.ndim not in (1, 2):
            raise TargetError(f"a concept vector has shape (dim,) or (images, dim), not {tuple(self.vector.shape)}")
        if not torch.isfinite(self.vector).all():
            raise TargetError("the concept vector holds NaN or infinity; check the concept's images")

    def score(self, output: Output) -> Float[Tensor, "batch"]:
        """Compute the similarity of each image's embedding to the vector.

        Raises:
            TargetError: The vector is of another model.
        """
        embedding = output.require(Capability.EMBEDDING)
        if embedding.shape[-1] != self.vector.shape[-1]:
            raise TargetError(
                f"the concept vector has {self.vector.shape[-1]} numbers, this model's embedding "
                f"{embedding.shape[-1]}; make the concept with the same model"
            )
        vector = self.vector.to(embedding)
        # a vector made in inference mode cannot be part of a graph; its copy can
        return MEASURES[self.measure](embedding, vector.clone() if vector.is_inference() else vector)

    def at(self, rows: Sequence[int]) -> Target:
        """Return the vectors of these rows."""
        return self if self.vector.ndim == 1 else replace(self, vector=self.vector[list(rows)])

    def check(self, batch: int, classes: int | None) -> None:
        """Check that there is one vector, or one for each image."""
        if self.vector.ndim == 2 and len(self.vector) != batch:
            raise TargetError(f"{len(self.vector)} reference vectors for {batch} images; give one, or one for each")

    def label(self, row: int, names: Sequence[str] | None = None) -> str:
        """Name the target."""
        return self.name

    def describe(self, row: int, names: Sequence[str] | None = None) -> dict[str, Any]:
        """Describe the target and its measure."""
        return {**super().describe(row, names), "measure": self.measure}


def concept(
    model: Embedder,
    images: ImageLike | Sequence[ImageLike],
    *,
    measure: str = "dot",
    name: str = "concept",
    batch_size: int = 16,
) -> Similarity:
    """Make a concept from example images: the plain mean of their embeddings (CDAM, eq. 3).

    Args:
        model: The `VisionModel` that is to be explained.
        images: A folder, a list of images, or a vector (dim,) made before.
        measure: `dot`, `cosine` or `l2`.
        name: What people call the concept.
        batch_size: Images embedded at a time.

    Raises:
        TargetError: There are no images.
        ImageError: One of them cannot be read.
    """
    if isinstance(images, Tensor) and images.ndim == 1:
        return Similarity(images, measure, name)
    examples = _concept_images(images)
    parts = [model.embed(examples[i : i + batch_size]) for i in range(0, len(examples), batch_size)]
    return Similarity(torch.cat(parts).float().mean(0), measure, name)


def _concept_images(images: ImageLike | Sequence[ImageLike]) -> Sequence[ImageLike]:
    if isinstance(images, str | Path) and Path(images).is_dir():
        try:
            return image_paths(Path(images))
        except ImageError as error:
            raise TargetError(f"the concept folder {str(images)!r} holds no images; put some into it") from error
    if isinstance(images, Sequence) and not images:
        raise TargetError("a concept needs at least one image; give a folder or a list")
    return as_list(images)  # not read yet: the model reads them with the levels and channels that it takes


def reference(
    model: Embedder,
    image: ImageLike | Sequence[ImageLike],
    *,
    measure: str = "cosine",
    name: str = "reference",
) -> Similarity:
    """Make the similarity to a reference image a target.

    Args:
        model: The `VisionModel` that is to be explained.
        image: The reference image, or a list with one for each image that is to be explained.
        measure: `dot`, `cosine` or `l2`.
        name: What people call the target.

    Raises:
        ImageError: An image cannot be read.
    """
    vectors = model.embed(image).float()
    return Similarity(vectors[0] if len(vectors) == 1 else vectors, measure, name, kind="reference")


class TextReader(Protocol):
    """Protocol of what a text target is made with: a `VisionModel` with a text side."""

    def embed_text(self, prompts: Sequence[str], templates: Sequence[str], /) -> Float[Tensor, "prompts dim"]:
        """Return the unit vectors of prompts."""
        ...


def text(model: TextReader, prompt: str, *, templates: Sequence[str] = ("{}",)) -> Similarity:
    """Make the cosine similarity of image and text a target (CLIP, SigLIP).

    Args:
        model: The `VisionModel` that is to be explained.
        prompt: The text; it takes the place of `{}` in the templates.
        templates: Ways to put it (`"a photo of a {}."`); the mean of their vectors is taken.

    Raises:
        TargetError: The model has no text side, or the prompt or a template cannot be used.
    """
    return Similarity(model.embed_text([prompt], templates)[0], "cosine", prompt, kind="text")


@dataclass(frozen=True)
class Custom(Target):
    """Any function of the logits or of the embedding that gives one number per image.

    Attributes:
        function: From (B, classes) or (B, dim) to (B,).
        on: What the function takes: `logits` or `embedding`.
        name: What people call the target.
    """

    function: Callable[[Tensor], Tensor]
    on: str = "logits"
    name: str = "custom"
    kind = "custom"

    @property
    def need(self) -> Capability:  # type: ignore[override]  # pyright: ignore[reportIncompatibleVariableOverride]
        """What the function takes."""
        return Capability(self.on)

    def score(self, output: Output) -> Float[Tensor, "batch"]:
        """Call the function.

        Raises:
            TargetError: It does not give one number per image.
        """
        values = output.require(self.need)
        score = self.function(values)
        if not isinstance(score, Tensor) or score.shape != values.shape[:1]:
            got = tuple(score.shape) if isinstance(score, Tensor) else type(score).__name__
            raise TargetError(f"the target function must return one number per image: ({len(values)},), not {got}")
        return score

    def label(self, row: int, names: Sequence[str] | None = None) -> str:
        """Name the target."""
        return self.name


def embedding_sum() -> Target:
    """Return the sum of the embedding as a target: what a label-free relevance starts from (LaFAM-LRP).

    Of an embedding that leaves a LayerNorm the sum is 0 for every image, but for rounding. It is then exactly 0, so
    that no method makes a map of the rounding.
    """
    return Custom(_sum, on="embedding", name="embedding sum")


def _sum(e: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch"]:
    total = e.sum(-1)
    rounding = 8 * torch.finfo(e.dtype).eps * e.abs().sum(-1)
    return torch.where(total.abs() > rounding, total, total * 0)


def embedding_norm() -> Target:
    """Return the Euclidean norm of the embedding as a target."""
    return Custom(lambda e: e.norm(dim=-1), on="embedding", name="embedding norm")
