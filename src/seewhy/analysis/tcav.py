"""Concept activation vectors: how much a class is sensitive to what example pictures have in common.

Kim et al., Interpretability Beyond Feature Attribution (TCAV), ICML 2018, sections 3.1-3.5; α-TCAV replaces the sign
of the directional derivative by a smooth function of it. Where a concept lies: `CAV.maps`. For a concept given by its
mean embedding (`seewhy.concept`) Grad-CAM with that target is the concept map already.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from seewhy.core.cards import Capability
from seewhy.core.images import ImageLike, load_images
from seewhy.errors import ImageError, NonFiniteError, OptionError, RequirementError, TargetError, require
from seewhy.methods.base import activation_and_gradient, make_generator
from seewhy.models.adapter import VisionModel
from seewhy.models.instrument.hooks import untouched
from seewhy.models.structure import Layer
from seewhy.targets import Output, TargetLike

Images = ImageLike | Sequence[ImageLike]
POOLS = ("mean", "flatten")


@dataclass(frozen=True, eq=False)
class CAV:
    """The direction in which a layer's activations become those of a concept.

    Attributes:
        vector: unit normal of the separating plane, to the concept's side: (C,) or, for `flatten`, (C, rows, cols).
        offset: ⟨activations, vector⟩ + offset is positive on the concept's side.
        layer: where.
        pool: whether activations are averaged over positions (`mean`) or taken with their places (`flatten`).
        accuracy: share of held-out pictures on the right side; 0.5 means that the layer does not know the concept.
        held_out: how many pictures that is.
    """

    vector: Float[Tensor, "..."]
    offset: float
    layer: Layer
    pool: str
    accuracy: float
    held_out: int

    def maps(self, model: VisionModel, images: Images) -> Float[Tensor, "batch rows cols"]:
        """Where the concept lies: ⟨A_ij, vector⟩ at each position, plus the offset for pool `mean`. Signed."""
        activations = model.activations(model.preprocess_images(images), [self.layer])[self.layer.name].float().cpu()
        if self.pool == "flatten":
            return (activations * self.vector).sum(1)
        return torch.einsum("bcij,c->bij", activations, self.vector) + self.offset


@dataclass(frozen=True, eq=False)
class TCAV:
    """How a score depends on a concept.

    Attributes:
        score: share of the pictures whose score grows towards the concept; mean over the runs.
        scores: of each run: the concept against another random set.
        random_scores: the same for random pictures in the concept's place.
        p_value: two-sided Welch test of `scores` against `random_scores`.
        accuracy: mean held-out accuracy of the runs' CAVs. Near 0.5 the layer does not know the concept, and the score
            means nothing, however small the p: a random direction, too, has a sign.
        cav: one CAV from all pictures; `sensitivities` are the directional derivatives along it, one per picture.
    """

    score: float
    scores: list[float]
    random_scores: list[float]
    p_value: float
    accuracy: float
    cav: CAV
    sensitivities: Float[Tensor, "images"]

    def smooth(self, alpha: float) -> float:
        """α-TCAV: the mean of σ(α S) over the pictures, S along the one CAV from all samples.

        α → ∞ is the share of positive S. α is in units of one over S (score per unit of activation).
        """
        if not alpha > 0:
            raise OptionError(f"alpha={alpha} is not positive; use for example 1 / sensitivities.abs().mean()")
        return torch.sigmoid(alpha * self.sensitivities.double()).mean().item()


def cav(
    model: VisionModel,
    concept: Images,
    random: Images,
    *,
    layer: Any = None,
    pool: str = "mean",
    ridge: float = 0.01,
    held_out: float = 1 / 3,
    seed: int = 0,
    batch_size: int = 16,
) -> CAV:
    """Separate a concept's pictures from random ones in a layer's activations.

    The separator is ridge regression on ±1, classes weighted alike, in closed form: deterministic, and of the size of
    the number of pictures. It is fitted to all pictures; the accuracy is that of a fit without the held-out part.

    Args:
        concept, random: pictures with the concept, and any others; a folder or a list.
        layer: by dotted name, module or stage number; default: the last that can be explained.
        pool: `mean` or `flatten`.
        ridge: penalty, relative to the mean squared length of an activation vector.
        held_out: share of the pictures, at least one of each kind, for the accuracy.
        seed: of which pictures are held out.

    Raises:
        TargetError: fewer than two pictures of a kind, or activations that are the same for all.
    """
    _check_pool(pool)
    at = model.cam_layer(layer)
    yes, no = (
        _activations(model, images, at, pool, batch_size, kind)
        for images, kind in ((concept, "concept"), (random, "random"))
    )
    return _cav(yes, no, at, pool, ridge, held_out, make_generator(seed, torch.device("cpu")))


def tcav(
    model: VisionModel,
    images: Images,
    target: TargetLike,
    concept: Images,
    random: Images,
    *,
    layer: Any = None,
    pool: str = "mean",
    runs: int = 20,
    ridge: float = 0.01,
    seed: int = 0,
    batch_size: int = 16,
) -> TCAV:
    """Share of `images` whose target grows when the layer's activations move towards the concept.

    The directional derivative of a picture is S = ⟨Σ_ij ∂f/∂A_ij, v⟩ for pool `mean` (every position moves by v), and
    ⟨∂f/∂A, v⟩ for `flatten`. Each run draws another random set of the concept's size (half of `random` at most); the
    same with random pictures as the concept is what the score is tested against. Pictures pass the model once.

    Above the layer there must be something that is not linear: at a last layer with a pooled linear head S is the
    same for every picture, and a score 0 or 1.

    Args:
        images: pictures of the class. target: as in `seewhy.explain`. The others: as in `cav`.
        runs: random sets.

    Raises:
        TargetError: empty sets, or no such target. MissingExtraError: scipy is not installed.
    """
    _check_pool(pool)
    if runs < 2:
        raise OptionError(f"runs={runs} allows no test; use 2 or more")
    require("scipy.stats", "cluster")
    at = model.cam_layer(layer)
    g = _gradients(model, images, target, at, pool, batch_size)
    yes, no = (
        _activations(model, images, at, pool, batch_size, kind)
        for images, kind in ((concept, "concept"), (random, "random"))
    )
    generator = make_generator(seed, torch.device("cpu"))
    fit = partial(_cav, layer=at, pool=pool, ridge=ridge, held_out=1 / 3, generator=generator)
    size = min(len(yes), len(no) // 2)
    if size < 2:
        raise TargetError(
            f"{len(no)} random pictures are too few to compare with; give 4 or more, best several "
            "times as many as of the concept"
        )
    found, chance = [], []
    for _ in range(runs):
        order = torch.randperm(len(no), generator=generator)
        found.append(fit(yes, no[order[:size]]))
        chance.append(fit(no[order[size : 2 * size]], no[order[:size]]))
    whole = fit(yes, no)
    scores, random_scores = ([_share(g, one) for one in some] for some in (found, chance))
    return TCAV(
        sum(scores) / runs,
        scores,
        random_scores,
        welch(scores, random_scores),
        sum(one.accuracy for one in found) / runs,
        whole,
        _along(g, whole),
    )


def welch(a: Sequence[float], b: Sequence[float]) -> float:
    """Two-sided p of Welch's t-test; without any spread, 1 for the same value and 0 for another."""
    if len(set(a)) == len(set(b)) == 1:
        return float(a[0] == b[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # one side without spread is no trouble
        return float(require("scipy.stats", "cluster").ttest_ind(a, b, equal_var=False).pvalue)


# ── the separator ─────────────────────────────────────────────────────────────────────────────────────────────────────
def _cav(
    yes: Tensor, no: Tensor, layer: Layer, pool: str, ridge: float, held_out: float, generator: torch.Generator
) -> CAV:
    shape, (yes, no) = yes.shape[1:], (yes.flatten(1).double(), no.flatten(1).double())
    parts = []
    for kind in (yes, no):
        order = torch.randperm(len(kind), generator=generator)
        cut = min(len(kind) - 1, max(1, round(held_out * len(kind))))
        parts.append((kind[order[cut:]], kind[order[:cut]]))
    (yes_fit, yes_test), (no_fit, no_test) = parts
    v, offset = _separator(yes_fit, no_fit, ridge)
    right = torch.cat([yes_test @ v + offset > 0, no_test @ v + offset < 0])
    v, offset = _separator(yes, no, ridge)
    return CAV(v.float().view(shape), float(offset), layer, pool, right.double().mean().item(), len(right))


def _separator(yes: Tensor, no: Tensor, ridge: float) -> tuple[Tensor, float]:
    """Unit normal and offset of the ridge regression on +1 and −1, in its dual form (n × n, whatever the dimension)."""
    half = torch.cat([torch.full((len(kind),), 0.5 / len(kind)).double() for kind in (yes, no)])
    x, y = torch.cat([yes, no]), torch.cat([torch.ones(len(yes)), -torch.ones(len(no))]).double()
    x = x - half @ x  # the middle between the two means: y is then centered as well
    rows = half.sqrt()[:, None] * x
    gram = rows @ rows.mT
    if not gram.trace() > 1e-20:
        raise TargetError("the layer's activations are the same for all these pictures; use other pictures or layers")
    penalty = max(ridge, 1e-9) * gram.trace() * torch.eye(len(x), dtype=x.dtype)
    w = rows.mT @ torch.linalg.solve(gram + penalty, half.sqrt() * y)
    if not (x @ w).abs().max() > 1e-9:  # of targets ±1; less is rounding
        raise TargetError("the concept's pictures cannot be told from the random ones in this layer; use others")
    v = w / w.norm()
    return v, -float(half @ torch.cat([yes, no]) @ v)


# ── activations and gradients ─────────────────────────────────────────────────────────────────────────────────────────
def _pictures(images: Images, kind: str, least: int = 2) -> list:
    try:
        found = load_images(images) if isinstance(images, (str, Path)) or len(images) else []
    except ImageError as error:
        if isinstance(images, (str, Path)) and Path(images).is_dir() and "no pictures" in str(error):
            raise TargetError(f"the {kind} folder {str(images)!r} holds no pictures; put some into it") from error
        raise
    if len(found) < least:
        raise TargetError(f"{len(found)} {kind} pictures are too few; give a folder or a list of {least} or more")
    return found


def _activations(model: VisionModel, images: Images, layer: Layer, pool: str, batch_size: int, kind: str) -> Tensor:
    """Pooled activations, (n, C) or (n, C, rows, cols), float32 on the CPU."""
    pictures, parts = _pictures(images, kind), []
    for i in range(0, len(pictures), batch_size):
        found = model.activations(model.preprocess_batch(pictures[i : i + batch_size]), [layer])[layer.name].float()
        parts.append((found.mean((2, 3)) if pool == "mean" else found).cpu())
    values = torch.cat(parts)
    if not torch.isfinite(values).all():
        raise NonFiniteError(f"{model.name} gives NaN or infinite activations at {layer.name!r}; check its weights")
    return values


def _gradients(
    model: VisionModel, images: Images, target: TargetLike, layer: Layer, pool: str, batch_size: int
) -> Tensor:
    """∂f/∂A of each picture, summed over positions for pool `mean`; float32 on the CPU."""
    if Capability.GRADIENTS not in model.capabilities:
        raise RequirementError(f"TCAV needs gradients, which {model.name} does not offer; wrap the module itself")
    goal = model.as_target(target)
    if goal.need not in model.capabilities:
        Output().require(goal.need)
    goal.check(1, model.classes)
    pictures, parts = _pictures(images, "class", least=1), []
    for i in range(0, len(pictures), batch_size):
        x = model.preprocess_batch(pictures[i : i + batch_size])
        with model.shape_error_context(x), torch.inference_mode(False), torch.no_grad(), untouched(model.module):
            _, g = activation_and_gradient(model, x, layer, goal)
        g = model.to_grid(g, layer, x.shape[-2:]).float()
        parts.append((g.sum((2, 3)) if pool == "mean" else g).cpu())
    return torch.cat(parts)


def _along(g: Tensor, one: CAV) -> Float[Tensor, "images"]:
    return g.flatten(1) @ one.vector.flatten()


def _share(g: Tensor, one: CAV) -> float:
    return (_along(g, one) > 0).double().mean().item()


def _check_pool(pool: str) -> None:
    if pool not in POOLS:
        raise OptionError(f"pool={pool!r} is not one of {', '.join(POOLS)}")
