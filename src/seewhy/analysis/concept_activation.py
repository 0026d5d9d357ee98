"""Concept activation vectors: how much a class score is sensitive to what example images have in common.

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
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn

from seewhy.analysis.differentiable import require_gradients, resolve_target
from seewhy.analysis.separator import separate, split_rows
from seewhy.core.images import ImageLike, ReadImage, image_paths
from seewhy.errors import ImageError, NonFiniteError, OptionError, TargetError, require
from seewhy.methods.base import activation_and_gradient, make_generator
from seewhy.models.adapter import VisionModel
from seewhy.models.instrument.hooks import untouched
from seewhy.models.structure import Layer
from seewhy.targets import TargetLike

ImageSet: TypeAlias = str | Path | Sequence[ImageLike]
"""A folder of images, or a list of them."""

POOLS = ("mean", "flatten")


@dataclass(frozen=True, eq=False)
class CAV:
    """The direction in which a layer's activations become those of a concept.

    Attributes:
        vector: Unit normal of the separating plane, to the concept's side: (C,) or, for `flatten`, (C, rows, cols).
        offset: ⟨activations, vector⟩ + offset is positive on the concept's side.
        layer: The layer.
        pool: Whether activations are averaged over positions (`mean`) or taken with their places (`flatten`).
        accuracy: Share of held-out images on the right side; 0.5 means that the layer does not know the concept.
        held_out: How many images that is.
    """

    vector: Float[Tensor, "..."]
    offset: float
    layer: Layer
    pool: str
    accuracy: float
    held_out: int

    def maps(self, model: VisionModel, images: ImageLike | Sequence[ImageLike]) -> Float[Tensor, "batch rows cols"]:
        """Compute where the concept lies: ⟨A_ij, vector⟩ at each position, plus the offset for pool `mean`. Signed."""
        activations = model.activations(model.preprocess_images(images), [self.layer])[self.layer.name].float().cpu()
        if self.pool == "flatten":
            return (activations * self.vector).sum(1)
        return torch.einsum("bcij,c->bij", activations, self.vector) + self.offset


@dataclass(frozen=True, eq=False)
class TCAV:
    """Result of `tcav`: the dependence of a score on a concept.

    Attributes:
        score: Share of the images whose score grows towards the concept; mean over the runs.
        scores: Of each run: the concept against another random set.
        random_scores: The same for random images in the concept's place.
        p_value: Two-sided Welch test of `scores` against `random_scores`.
        accuracy: Mean held-out accuracy of the runs' CAVs. Near 0.5 the layer does not know the concept, and the score
            means nothing, however small the p-value: a random direction, too, has a sign.
        cav: One CAV from all images.
        sensitivities: The directional derivatives along `cav`, one per image.
    """

    score: float
    scores: list[float]
    random_scores: list[float]
    p_value: float
    accuracy: float
    cav: CAV
    sensitivities: Float[Tensor, "images"]

    def smooth(self, alpha: float) -> float:
        """Compute α-TCAV: the mean of σ(α S) over the images, S along the one CAV from all samples.

        Args:
            alpha: In units of one over S (score per unit of activation); α → ∞ is the share of positive S.

        Raises:
            OptionError: When alpha is not positive.
        """
        if not alpha > 0:
            raise OptionError(f"alpha must be positive, got {alpha}; use for example 1 / sensitivities.abs().mean()")
        return torch.sigmoid(alpha * self.sensitivities.double()).mean().item()


def cav(
    model: VisionModel,
    concept: ImageSet,
    random: ImageSet,
    *,
    layer: str | nn.Module | int | None = None,
    pool: str = "mean",
    ridge: float = 0.01,
    held_out: float = 1 / 3,
    seed: int = 0,
    batch_size: int = 16,
) -> CAV:
    """Separate a concept's images from random ones in a layer's activations.

    The separator is ridge regression on ±1, classes weighted alike, in closed form: deterministic, and of the size of
    the number of images. It is fitted to all images; the accuracy is that of a fit without the held-out part.

    Args:
        model: A model of `seewhy.load_model` or `seewhy.wrap`.
        concept: Images with the concept.
        random: Any other images.
        layer: Dotted name, module or stage number; default: the layer that Grad-CAM uses.
        pool: `mean` or `flatten`.
        ridge: Penalty, relative to the mean squared length of an activation vector.
        held_out: Share of the images, at least one of each kind, for the accuracy.
        seed: Decides which images are held out.
        batch_size: Images per forward pass.

    Raises:
        TargetError: When there are fewer than two images of a kind, or activations that are the same for all.
        OptionError: When the pool is unknown.
        NonFiniteError: When activations are NaN or infinite.
    """
    _check_pool(pool)
    cam_layer = model.cam_layer(layer)
    positives = _activations(model, concept, cam_layer, pool, batch_size, "concept")
    negatives = _activations(model, random, cam_layer, pool, batch_size, "random")
    return _fit_cav(positives, negatives, cam_layer, pool, ridge, held_out, make_generator(seed, torch.device("cpu")))


def tcav(
    model: VisionModel,
    images: ImageSet,
    target: TargetLike,
    concept: ImageSet,
    random: ImageSet,
    *,
    layer: str | nn.Module | int | None = None,
    pool: str = "mean",
    runs: int = 20,
    ridge: float = 0.01,
    seed: int = 0,
    batch_size: int = 16,
) -> TCAV:
    """Measure the share of images whose target grows when the layer's activations move towards the concept.

    The directional derivative of an image is S = ⟨Σ_ij ∂f/∂A_ij, v⟩ for pool `mean` (every position moves by v), and
    ⟨∂f/∂A, v⟩ for `flatten`. Each run draws another random set of the concept's size (half of `random` at most); the
    same with random images as the concept is what the score is tested against. Images pass the model once.

    Above the layer there must be something that is not linear: at a last layer with a pooled linear head S is the
    same for every image, and a score 0 or 1.

    Args:
        model: A model of `seewhy.load_model` or `seewhy.wrap`.
        images: Images of the class.
        target: What is explained, as in `seewhy.explain`.
        concept: Images with the concept.
        random: Any other images; best several times as many.
        layer: As in `cav`.
        pool: As in `cav`.
        runs: Random sets to compare with.
        ridge: As in `cav`.
        seed: Seed of the random sets.
        batch_size: Images per forward pass.

    Raises:
        TargetError: When a set is too small, or the model has no such output.
        OptionError: When the pool is unknown, or there are fewer than two runs.
        RequirementError: When the model has no gradients.
        NonFiniteError: When activations are NaN or infinite.
        MissingExtraError: When scipy is not installed.
    """
    _check_pool(pool)
    if runs < 2:
        raise OptionError(f"runs must be at least 2 to allow a test, got runs={runs}; use 2 or more")
    require("scipy.stats", "cluster")
    cam_layer = model.cam_layer(layer)
    gradients = _gradients(model, images, target, cam_layer, pool, batch_size)
    positives = _activations(model, concept, cam_layer, pool, batch_size, "concept")
    negatives = _activations(model, random, cam_layer, pool, batch_size, "random")
    size = min(len(positives), len(negatives) // 2)
    if size < 2:
        raise TargetError(
            f"{len(negatives)} random images are too few to compare with; give 4 or more, best several "
            "times as many as of the concept"
        )
    generator = make_generator(seed, torch.device("cpu"))
    fit = partial(_fit_cav, layer=cam_layer, pool=pool, ridge=ridge, held_out=1 / 3, generator=generator)
    concept_cavs, random_cavs = [], []
    for _ in range(runs):
        order = torch.randperm(len(negatives), generator=generator)
        sample, other = negatives[order[:size]], negatives[order[size : 2 * size]]
        concept_cavs.append(fit(positives, sample))
        random_cavs.append(fit(other, sample))
    overall = fit(positives, negatives)
    scores = [_positive_share(gradients, one) for one in concept_cavs]
    random_scores = [_positive_share(gradients, one) for one in random_cavs]
    return TCAV(
        score=sum(scores) / runs,
        scores=scores,
        random_scores=random_scores,
        p_value=welch_p_value(scores, random_scores),
        accuracy=sum(one.accuracy for one in concept_cavs) / runs,
        cav=overall,
        sensitivities=_derivatives(gradients, overall),
    )


def welch_p_value(a: Sequence[float], b: Sequence[float]) -> float:
    """Compute the two-sided p-value of Welch's t-test; without any spread, 1 for the same value and 0 for another."""
    if len(set(a)) == len(set(b)) == 1:
        return float(a[0] == b[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # one side without spread does no harm
        return float(require("scipy.stats", "cluster").ttest_ind(a, b, equal_var=False).pvalue)


# ── one direction ─────────────────────────────────────────────────────────────────────────────────────────────────────
def _fit_cav(
    positives: Tensor,
    negatives: Tensor,
    layer: Layer,
    pool: str,
    ridge: float,
    held_out: float,
    generator: torch.Generator,
) -> CAV:
    shape = positives.shape[1:]
    positives, negatives = positives.flatten(1).double(), negatives.flatten(1).double()
    positives_fit, positives_test = split_rows(positives, held_out, generator)
    negatives_fit, negatives_test = split_rows(negatives, held_out, generator)
    v, offset = separate(positives_fit, negatives_fit, ridge)
    correct = torch.cat([positives_test @ v + offset > 0, negatives_test @ v + offset < 0])
    v, offset = separate(positives, negatives, ridge)
    return CAV(v.float().view(shape), float(offset), layer, pool, correct.double().mean().item(), len(correct))


# ── activations and gradients ─────────────────────────────────────────────────────────────────────────────────────────
def _load_set(model: VisionModel, images: ImageSet, kind: str, least: int = 2) -> list[ReadImage]:
    if isinstance(images, str | Path):
        images = _folder_images(Path(images), kind)
    if len(images) < least:
        raise TargetError(f"{len(images)} {kind} images are too few; give a folder or a list of {least} or more")
    return [model.opened(image)() for image in images]


def _folder_images(folder: Path, kind: str) -> list[Path]:
    if not folder.is_dir():
        raise TargetError(f"the {kind} images {str(folder)!r} are not a folder; give a folder or a list of images")
    try:
        return image_paths(folder)
    except ImageError as error:
        raise TargetError(f"the {kind} folder {str(folder)!r} has no images; put some into it") from error


def _activations(model: VisionModel, images: ImageSet, layer: Layer, pool: str, batch_size: int, kind: str) -> Tensor:
    """Return pooled activations, (n, C) or (n, C, rows, cols), float32 on the CPU."""
    loaded, parts = _load_set(model, images, kind), []
    for i in range(0, len(loaded), batch_size):
        x = model.preprocess_batch(loaded[i : i + batch_size])
        activations = model.activations(x, [layer])[layer.name].float()
        parts.append((activations.mean((2, 3)) if pool == "mean" else activations).cpu())
    values = torch.cat(parts)
    if not torch.isfinite(values).all():
        raise NonFiniteError(f"{model.name} gives NaN or infinite activations at {layer.name!r}; check its weights")
    return values


def _gradients(
    model: VisionModel, images: ImageSet, target: TargetLike, layer: Layer, pool: str, batch_size: int
) -> Tensor:
    """Return ∂f/∂A of each image, summed over positions for pool `mean`; float32 on the CPU."""
    require_gradients(model, "TCAV")
    resolved = resolve_target(model, target)
    loaded, parts = _load_set(model, images, "class", least=1), []
    for i in range(0, len(loaded), batch_size):
        x = model.preprocess_batch(loaded[i : i + batch_size])
        with model.shape_error_context(x), torch.inference_mode(False), torch.no_grad(), untouched(model.module):
            _, g = activation_and_gradient(model, x, layer, resolved)
        g = model.to_grid(g, layer, x.shape[-2:]).float()
        parts.append((g.sum((2, 3)) if pool == "mean" else g).cpu())
    return torch.cat(parts)


def _derivatives(gradients: Tensor, one: CAV) -> Float[Tensor, "images"]:
    return gradients.flatten(1) @ one.vector.flatten()


def _positive_share(gradients: Tensor, one: CAV) -> float:
    return (_derivatives(gradients, one) > 0).double().mean().item()


def _check_pool(pool: str) -> None:
    if pool not in POOLS:
        raise OptionError(f"unknown pool {pool!r}; choose from {', '.join(POOLS)}")
