"""What is explained: a class, a concept, an embedding, an output, or any function of the output.

A target turns a model's `Output` into one number per image; every method takes any target, so each gradient or CAM
method is also a label-free method when the target is made of the embedding.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from seewhy.core.cards import Capability
from seewhy.core.images import image_paths, load_images
from seewhy.errors import ImageError, TargetError, UnknownNameError


@dataclass(frozen=True)
class Output:
    """What a model says of a batch: `logits` (B, classes) and `embedding` (B, dim), each where there is one."""

    logits: Float[Tensor, "batch classes"] | None = None
    embedding: Float[Tensor, "batch dim"] | None = None

    def row(self, i: int) -> Output:
        """The output of image `i`, as a batch of one."""
        return Output(*(None if t is None else t[i : i + 1] for t in (self.logits, self.embedding)))

    def require(self, need: Capability) -> Tensor:
        """The logits or the embedding.

        Raises:
            TargetError: the model has none.
        """
        value = self.logits if need == Capability.LOGITS else self.embedding
        if value is None:
            other = (
                "an embedding target (embedding-sum, a concept), or wrap(module, output='logits') if it returns "
                "class scores"
                if need == Capability.LOGITS
                else "a class target instead"
            )
            raise TargetError(f"this model gives no {need}; use {other}")
        return value


class Target(ABC):
    """One number per image, to be explained.

    Attributes:
        kind: a word for manifests and messages.
        need: which part of the output it reads.
    """

    kind: str = "target"
    need: Capability = Capability.LOGITS

    @abstractmethod
    def score(self, output: Output) -> Float[Tensor, "batch"]:
        """The number for each image of the batch."""

    def at(self, rows: Sequence[int]) -> Target:
        """The target for a batch made of these rows of the original batch (rows may repeat)."""
        return self

    def of_sources(self, sources: Sequence[str], names: Sequence[str] | None) -> Target:
        """Return the target with everything that depends on where the images come from settled.

        Args:
            sources: The path of each image of the batch.
            names: The model's class names.
        """
        return self

    def fixed(self, output: Output) -> Target:
        """Return the target with everything that depends on the model's own answer settled (top-1 becomes a class)."""
        return self

    @property
    def depends_on_output(self) -> bool:
        """Whether `fixed` needs a forward pass."""
        return False

    def check(self, batch: int, classes: int | None) -> None:  # noqa: B027 (most targets fit any batch)
        """Raise `TargetError` if the target cannot be for a batch of this size or a head of this width."""

    def label(self, row: int, names: Sequence[str] | None = None) -> str:
        """How a person would name the target of image `row`."""
        return self.kind

    def describe(self, row: int, names: Sequence[str] | None = None) -> dict[str, Any]:
        """A JSON-able description of the target of image `row`."""
        return {"kind": self.kind, "label": self.label(row, names)}


@dataclass(frozen=True)
class ClassTarget(Target):
    """The logit of a class: one index for all images, or one for each."""

    index: tuple[int, ...]
    kind: str = "class"

    def score(self, output: Output) -> Float[Tensor, "batch"]:
        logits = output.require(Capability.LOGITS)
        self.check(*logits.shape)
        if len(self.index) == 1:
            return logits[:, self.index[0]]
        columns = torch.tensor(self.index).to(logits.device, non_blocking=True)
        return logits.gather(1, columns[:, None]).squeeze(1)

    def at(self, rows: Sequence[int]) -> Target:
        return self if len(self.index) == 1 else replace(self, index=tuple(self.index[r] for r in rows))

    def check(self, batch: int, classes: int | None) -> None:
        if len(self.index) not in (1, batch):
            raise TargetError(f"{len(self.index)} targets for {batch} images; give one target, or one for each image")
        for index in self.index:
            if classes is not None and not 0 <= index < classes:
                raise TargetError(f"{self.kind} {index} is out of range; this model has {classes}: 0 to {classes - 1}")
            if index < 0:
                raise TargetError(f"{self.kind} {index} is negative; count from 0")

    def label(self, row: int, names: Sequence[str] | None = None) -> str:
        index = self.index[row % len(self.index)]
        return names[index] if names and index < len(names) else f"{self.kind} {index}"

    def describe(self, row: int, names: Sequence[str] | None = None) -> dict[str, Any]:
        return {**super().describe(row, names), "index": self.index[row % len(self.index)]}


def Regression(index: int = 0) -> ClassTarget:  # noqa: N802 (reads as a target in user code)
    """One output of a regression head."""
    return ClassTarget((index,), kind="output")


@dataclass(frozen=True)
class Rank(Target):
    """The class that the model itself ranks `rank`-th (1 is its answer), for each image."""

    rank: int = 1
    kind = "class"

    def score(self, output: Output) -> Float[Tensor, "batch"]:
        logits = output.require(Capability.LOGITS)
        return logits.gather(1, self._classes(logits)[:, None]).squeeze(1)

    def fixed(self, output: Output) -> Target:
        return ClassTarget(tuple(self._classes(output.require(Capability.LOGITS)).tolist()))

    def _classes(self, logits: Tensor) -> Tensor:
        self.check(*logits.shape)
        return logits.detach().topk(self.rank, dim=1).indices[:, -1]

    @property
    def depends_on_output(self) -> bool:
        return True

    def check(self, batch: int, classes: int | None) -> None:
        if self.rank < 1 or (classes is not None and self.rank > classes):
            raise TargetError(f"rank {self.rank} is out of range; this model has {classes} classes: 1 to {classes}")

    def label(self, row: int, names: Sequence[str] | None = None) -> str:
        return f"top-{self.rank}"


@dataclass(frozen=True)
class Truth(Target):
    """The class that the folder of an image file is named after (`photos/elk/1.jpg`: elk)."""

    kind = "class"

    def score(self, output: Output) -> Float[Tensor, "batch"]:
        raise TargetError("'truth' is the name of an image's folder; pass files to seewhy.explain, or give the classes")

    def of_sources(self, sources: Sequence[str], names: Sequence[str] | None) -> Target:
        return ClassTarget(tuple(class_index(Path(source).parent.name, names) for source in sources))

    def label(self, row: int, names: Sequence[str] | None = None) -> str:
        return "truth"


MEASURES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "dot": lambda e, v: (e * v).sum(-1),
    "cosine": lambda e, v: F.cosine_similarity(e, v, dim=-1),
    "l2": lambda e, v: -(e - v).norm(dim=-1),
}


@dataclass(frozen=True, eq=False)
class Similarity(Target):
    """Similarity of the embedding to a vector: a concept's mean embedding, or a reference image's.

    Attributes:
        vector: (dim,) for all images, or (B, dim).
        measure: `dot` (CDAM, eq. 3: not normalized), `cosine`, or `l2` (negative distance).
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
        return self if self.vector.ndim == 1 else replace(self, vector=self.vector[list(rows)])

    def check(self, batch: int, classes: int | None) -> None:
        if self.vector.ndim == 2 and len(self.vector) != batch:
            raise TargetError(f"{len(self.vector)} reference vectors for {batch} images; give one, or one for each")

    def label(self, row: int, names: Sequence[str] | None = None) -> str:
        return self.name

    def describe(self, row: int, names: Sequence[str] | None = None) -> dict[str, Any]:
        return {**super().describe(row, names), "measure": self.measure}


def concept(
    model: Any, images: Any, *, measure: str = "dot", name: str = "concept", batch_size: int = 16
) -> Similarity:
    """A concept from example images: the plain mean of their embeddings (CDAM, eq. 3).

    Args:
        model: the `VisionModel` that is to be explained.
        images: a folder, a list of images, or a vector (dim,) made before.
        measure: `dot`, `cosine` or `l2`.
        batch_size: images embedded at a time.

    Raises:
        TargetError: no images. ImageError: one of them cannot be read.
    """
    if isinstance(images, Tensor) and images.ndim == 1:
        return Similarity(images, measure, name)
    items = _concept_images(images)
    parts = [model.embed(items[i : i + batch_size]) for i in range(0, len(items), batch_size)]
    return Similarity(torch.cat(parts).float().mean(0), measure, name)


def _concept_images(images: Any) -> list:
    if isinstance(images, (str, Path)) and Path(images).is_dir():
        try:
            return image_paths(Path(images))
        except ImageError as error:
            raise TargetError(f"the concept folder {str(images)!r} holds no images; put some into it") from error
    if isinstance(images, Sequence) and not images:
        raise TargetError("a concept needs at least one image; give a folder or a list")
    return load_images(images)


def reference(model: Any, image: Any, *, measure: str = "cosine", name: str = "reference") -> Similarity:
    """Similarity to the embedding of one reference image (or, for a list, of one for each image explained)."""
    vectors = model.embed(image).float()
    return Similarity(vectors[0] if len(vectors) == 1 else vectors, measure, name, kind="reference")


@dataclass(frozen=True)
class Custom(Target):
    """Any function of the logits (`on="logits"`) or of the embedding, giving one number per image."""

    function: Callable[[Tensor], Tensor]
    on: str = "logits"
    name: str = "custom"
    kind = "custom"

    @property
    def need(self) -> Capability:  # type: ignore[override]
        return Capability(self.on)

    def score(self, output: Output) -> Float[Tensor, "batch"]:
        values = output.require(self.need)
        score = self.function(values)
        if not isinstance(score, Tensor) or score.shape != values.shape[:1]:
            got = tuple(score.shape) if isinstance(score, Tensor) else type(score).__name__
            raise TargetError(f"the target function must return one number per image: ({len(values)},), not {got}")
        return score

    def label(self, row: int, names: Sequence[str] | None = None) -> str:
        return self.name


def embedding_sum() -> Target:
    """The sum of the embedding: what a label-free relevance starts from (LaFAM-LRP)."""
    return Custom(lambda e: e.sum(-1), on="embedding", name="embedding sum")


def embedding_norm() -> Target:
    """The Euclidean norm of the embedding."""
    return Custom(lambda e: e.norm(dim=-1), on="embedding", name="embedding norm")


@dataclass(frozen=True)
class PerImage(Target):
    """A different target, of any kind, for each image."""

    targets: tuple[Target, ...]
    kind = "per image"

    @property
    def need(self) -> Capability:  # type: ignore[override]
        return self.targets[0].need

    def score(self, output: Output) -> Float[Tensor, "batch"]:
        return torch.cat([t.score(output.row(i)) for i, t in enumerate(self.targets)])

    def at(self, rows: Sequence[int]) -> Target:
        return PerImage(tuple(self.targets[r] for r in rows))

    def of_sources(self, sources: Sequence[str], names: Sequence[str] | None) -> Target:
        pairs = zip(self.targets, sources, strict=True)
        return PerImage(tuple(target.of_sources([source], names) for target, source in pairs))

    def fixed(self, output: Output) -> Target:
        return PerImage(tuple(t.fixed(output.row(i)) for i, t in enumerate(self.targets)))

    @property
    def depends_on_output(self) -> bool:
        return any(t.depends_on_output for t in self.targets)

    def check(self, batch: int, classes: int | None) -> None:
        if len(self.targets) != batch:
            raise TargetError(f"{len(self.targets)} targets for {batch} images; give one target, or one for each image")
        for target in self.targets:
            target.check(1, classes)

    def label(self, row: int, names: Sequence[str] | None = None) -> str:
        return self.targets[row].label(0, names)

    def describe(self, row: int, names: Sequence[str] | None = None) -> dict[str, Any]:
        return self.targets[row].describe(0, names)


OneTarget: TypeAlias = None | int | str | Target | Callable[[Tensor], Tensor]
"""The model's answer (None), a class index or name, a word such as `"top-2"`, a `Target`, or a function of the output."""

TargetLike: TypeAlias = OneTarget | Sequence[OneTarget] | Tensor | np.ndarray
"""One target for all images, or a list, tensor or array with one for each image."""

WORDS: dict[str, Callable[[], Target]] = {"embedding-sum": embedding_sum, "embedding-norm": embedding_norm}


def class_index(name: str, names: Sequence[str] | None) -> int:
    """The index of a class by name or number; a word of a comma-separated name is enough.

    Raises:
        UnknownNameError: no such class; the nearest are suggested.
        TargetError: the model came without class names.
    """
    if re.fullmatch(r"\s*-?[0-9]+\s*", name):
        return int(name)
    if not names:
        raise TargetError(f"this model came without class names, so {name!r} cannot be found; give the class number")
    wanted = _fold(name)
    exact = [i for i, n in enumerate(names) if wanted == _fold(n) or wanted in map(_fold, n.split(","))]
    if not exact:
        raise UnknownNameError("class", name, names)
    return exact[0]


def _fold(name: str) -> str:
    return name.strip().lower().replace("_", " ").replace("-", " ")


def parse(word: str, names: Sequence[str] | None = None) -> Target:
    """A target from a word: class name or number, `top-1` …, `embedding-sum`, `embedding-norm`."""
    key = word.strip().lower()
    if key in WORDS:
        return WORDS[key]()
    if key == "truth":
        return Truth()
    if top := re.fullmatch(r"top-?([0-9]*)", key):
        return Rank(int(top[1] or 1))
    return ClassTarget((class_index(word, names),))


def top(k: int) -> list[Target]:
    """Return the model's k best classes as k targets: `compare(model, image, methods, top(3))`."""
    return [Rank(rank) for rank in range(1, k + 1)]


def as_target(spec: TargetLike, names: Sequence[str] | None = None, has_logits: bool = True) -> Target:
    """Make a `Target` of what a user writes.

    `None` is the class that the model answers, or the sum of the embedding for a model without classes.

    Raises:
        TargetError, UnknownNameError: there is no such target.
    """
    if spec is None:
        return Rank(1) if has_logits else embedding_sum()
    if isinstance(spec, Target):
        return spec
    if isinstance(spec, bool):
        raise TargetError("True/False is no target; give a class number or name")
    if isinstance(spec, int):
        return ClassTarget((spec,))
    if isinstance(spec, str):
        return parse(spec, names)
    if callable(spec):
        return Custom(spec, on="logits" if has_logits else "embedding", name=getattr(spec, "__name__", "custom"))
    if isinstance(spec, Tensor | np.ndarray | np.generic):
        return as_target(spec.tolist(), names, has_logits)
    if isinstance(spec, list | tuple) and spec:
        targets = [as_target(each, names, has_logits) for each in spec]
        if len(targets) == 1:
            return targets[0]
        if all(isinstance(t, ClassTarget) and len(t.index) == 1 and t.kind == "class" for t in targets):
            return ClassTarget(tuple(t.index[0] for t in targets))
        return PerImage(tuple(targets))
    raise TargetError(f"{type(spec).__name__} is no target; give a class number or name, a list or a callable")


def tiled_rows(batch: int, n: int) -> list[int]:
    """Row numbers of `n` whole batches one after the other."""
    return list(range(batch)) * n
