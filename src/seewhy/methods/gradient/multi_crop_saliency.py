"""Multi-crop saliency: saliency averaged over the crops and mirror images that the class was predicted from."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from seewhy.core.cards import Capability, Cost
from seewhy.errors import OptionError
from seewhy.methods.base import BATCH_SIZE, chunks, gradient, images_per_pass, method, option, repeat_target
from seewhy.methods.gradient.channels import PixelMagnitudes
from seewhy.targets import Target


@method(
    name="multi_crop_saliency",
    title="Multi-crop saliency",
    summary="How strongly the score reacts to each pixel, averaged over crops of the image and their mirror images.",
    needs={Capability.GRADIENTS},
    signed=False,
    class_specific=True,
    citation="Simonyan et al., Deep Inside Convolutional Networks (2013), arXiv:1312.6034, section 3.1",
    cost=lambda self: Cost.whole(self.crops, self.crops),
)
class MultiCropSaliency(PixelMagnitudes):
    """M_ij = mean over the crops k that hold pixel ij of max over channels of |∂f(T_k x)/∂x_cij|.

    The paper's ten crops: the four corners and the center, and each mirrored; `fraction` of the side (224 of 256
    pixels), no random numbers. T_k crops, mirrors and enlarges bilinearly to the size that the model takes; the
    gradient goes back through T_k, so all maps lie on the image's own pixels and nothing is resampled afterwards.
    The mean is over the crops that a pixel is in, else borders, which lie in fewer, would look unimportant.
    """

    fraction: float = option(default=0.875, help="the side of a crop, as a share of the image's; 0.5 to 1", at_least=0)
    mirror: bool = option(default=True, help="mirrored crops too")
    batch_size: int = option(default=16, help=BATCH_SIZE, at_least=1)

    def setup(self) -> None:
        """Check the fraction."""
        if not 0.5 <= self.fraction <= 1:
            raise OptionError(f"fraction={self.fraction!r} leaves pixels in no crop, or is above 1; use 0.5 to 1")

    @property
    def crops(self) -> int:
        """The number of crops."""
        return 10 if self.mirror else 5

    def compute(self, x: Tensor, target: Target) -> Float[Tensor, "batch rows cols"]:
        """Compute the maps as the class describes them."""
        batch, views = len(x), windows(x.shape[-2], x.shape[-1], self.fraction, self.mirror)
        total = torch.zeros_like(x[:, 0], dtype=torch.float32)
        covered = torch.zeros_like(total[:1])
        for start, stop in chunks(len(views), batch, images_per_pass(self.batch_size, x)):
            grads = self._gradients(x, views[start:stop], repeat_target(target, batch, stop - start))
            total += self.per_pixel(grads).sum(0)
            for rows, cols, _ in views[start:stop]:
                covered[:, rows, cols] += 1
        return total / covered

    def _gradients(self, x: Tensor, views: list[tuple[slice, slice, bool]], target: Target) -> Tensor:
        """Return ∂f/∂x of each view, (views, batch, channels, height, width); zero outside of the view."""
        with torch.enable_grad():
            copies = x.detach().expand(len(views), *x.shape).clone().requires_grad_()
            resized = [
                F.interpolate(_cropped(copy, *view), x.shape[-2:], mode="bilinear", align_corners=False)
                for copy, view in zip(copies, views, strict=True)
            ]
            score = target.score(self.model.run(torch.cat(resized)))
        return gradient(score, copies)


def windows(height: int, width: int, fraction: float, mirror: bool) -> list[tuple[slice, slice, bool]]:
    """Return rows, columns and whether mirrored, of the crops at the corners and the center."""
    high, wide = (max(1, round(fraction * side)) for side in (height, width))
    low, right = height - high, width - wide
    places = [(0, 0), (0, right), (low, 0), (low, right), (low // 2, right // 2)]
    return [
        (slice(r, r + high), slice(c, c + wide), flip)
        for flip in ((False, True) if mirror else (False,))
        for r, c in places
    ]


def _cropped(x: Tensor, rows: slice, cols: slice, flip: bool) -> Tensor:
    crop = x[..., rows, cols]
    return crop.flip(-1) if flip else crop
