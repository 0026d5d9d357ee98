"""Spectral IG: integrated gradients along a path that brings in the image's coarse structure first."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from seewhy.core.cards import Capability, Cost
from seewhy.core.maps import upcast
from seewhy.errors import OptionError, TargetError
from seewhy.methods.base import BATCH_SIZE, chunks, gradient, images_per_pass, method, option, repeat_target
from seewhy.methods.baselines import BASELINE, check_baseline, starting_images
from seewhy.methods.gradient.channels import PixelShares
from seewhy.models.adapter import VisionModel
from seewhy.targets import Output, Target


@method(
    name="spectral_ig",
    title="Spectral IG",
    summary="How much each pixel adds to the class's probability while the image appears from coarse to fine.",
    needs={Capability.GRADIENTS},
    signed=True,
    class_specific=True,
    citation="Spectral Integrated Gradients for Coarse-to-Fine Feature Attribution (2026)",
    cost=lambda self: Cost.whole(self.n_steps, self.n_steps),
)
class SpectralIG(PixelShares):
    """M_ij = Σ_c Σ_k (γ(k/n) − γ((k−1)/n))_cij ∂p/∂x_cij (γ((k−½)/n)), p the probability of the class.

    γ(α) = x̃ + Σ_i a_i(α) s_i u_i v_iᵀ for each channel, with the SVD x − x̃ = Σ_i s_i u_i v_iᵀ, the strengths
    r_i = s_i / s_max and a_i(α) = clip((α − (1 − w)(1 − r_i)) / w, 0, 1): strong components come in first, each over a
    stretch w of the path. w = 1 is the straight line, with the midpoints of `integrated_gradients`. The map sums to
    p(x) − p(x̃) as n grows, but slowly for small w: as w → 0 each component jumps in between two points, where no
    gradient is taken, and completeness is lost. A target on the embedding is explained as it is; for a function of
    the logits, p stands in their place; `read_out="logit"` explains the logit, as the other methods do.
    """

    n_steps: int = option(default=200, help="points on the path", at_least=1, repeats=True)
    width: float = option(
        default=0.4, help="w, the stretch of the path over which a component comes in; above 0 to 1", at_least=0
    )
    read_out: str = option(default="probability", help="what is differentiated", choices=("probability", "logit"))
    baseline: Any = option(default="black", help=f"where the path starts: {BASELINE}")
    batch_size: int = option(default=16, help=BATCH_SIZE, at_least=1)

    def setup(self) -> None:
        """Check the baseline and the width."""
        check_baseline(self.baseline)
        if not 0 < self.width <= 1:
            raise OptionError(f"width={self.width!r} is not above 0 and at most 1; use for example 0.4")

    def check_target(self, target: Target) -> None:
        """Raise `TargetError` for a regression output, which has no probability."""
        if self.read_out == "probability" and target.kind == "output":
            raise TargetError("a regression output has no probability; use Spectral IG with read_out='logit'")

    def compute(self, x: Tensor, target: Target) -> Float[Tensor, "batch rows cols"]:
        """Compute the maps as the class describes them."""
        batch, start_image = len(x), starting_images(self.model, x, self.baseline)
        path = SpectralPath(x - start_image, self.width)
        total = torch.zeros_like(path.whole)
        for start, stop in chunks(self.n_steps, batch, images_per_pass(self.batch_size, x)):
            ends = torch.arange(start, stop + 1, dtype=path.whole.dtype, device=x.device) / self.n_steps
            points = start_image + path((ends[1:] + ends[:-1]) / 2).to(x.dtype)
            repeated = repeat_target(target, batch, stop - start)
            grad = score_gradient(self.model, points.flatten(0, 1), repeated, self.read_out).to(total.dtype)
            total += (grad.unflatten(0, (-1, batch)) * path(ends).diff(dim=0)).sum(0)
        return self.per_pixel(total)


class SpectralPath:
    """A path from 0 to `whole` that brings in the singular components of each channel one after the other."""

    def __init__(self, whole: Float[Tensor, "batch channels height width"], width: float) -> None:
        self.whole, self.width = whole.to(torch.promote_types(whole.dtype, torch.float32)), width
        self._left, self._strengths, self._right = torch.linalg.svd(self.whole, full_matrices=False)
        largest = self._strengths[..., :1]
        self._late = (1 - width) * (1 - self._strengths / torch.where(largest > 0, largest, 1))

    def __call__(self, alphas: Float[Tensor, "points"]) -> Float[Tensor, "points batch channels height width"]:
        """Return the points of the path at `alphas`."""
        active = ((alphas.view(-1, 1, 1, 1) - self._late) / self.width).clamp(0, 1)
        with torch.autocast(self.whole.device.type, enabled=False):
            return (self._left * (active * self._strengths)[..., None, :]) @ self._right


def score_gradient(model: VisionModel, x: Tensor, target: Target, read_out: str) -> Tensor:
    """Return ∂ score / ∂ x, of the probabilities in place of the logits if `read_out` says so."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        output = model.run(x)
        if read_out == "probability" and output.logits is not None:
            output = Output(model.probabilities(upcast(output.logits)), output.embedding)
        score = target.score(output)
    return gradient(score, x)
