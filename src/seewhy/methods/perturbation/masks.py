"""Random masks: small grids of zeros and ones, enlarged to the image.

Mask k depends on the seed, k and the image's size only: not on the batch, on how many masks are made at a time, or on
the device (the grids are drawn on the CPU; only they travel). Every image of a batch gets the same masks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from seewhy.core.maps import upcast
from seewhy.errors import OptionError
from seewhy.methods.base import chunks, make_generator

Grids = Float[Tensor, "masks cells cells"]
Masks = Float[Tensor, "masks rows cols"]
Size = tuple[int, int]

RELAX_PAD = 3
"""Pixels that a "relax" mask can be shifted by, in each direction."""


def rise(grids: Grids, offsets: Int[Tensor, "masks 2"], size: Size) -> Masks:
    """Enlarge as Petsiuk et al., section 3.2: bilinear to (s + 1) cells, cut out at a random offset within a cell.

    In the outermost half cell the grid goes on as its mirror image about the center of the last cell, as in their code.
    """
    rows, cols = (_weights(grids, (grids.shape[-1] + 1) * side) for side in _cell(size, grids.shape[-1]))
    return _cut((rows @ grids @ cols.mT)[:, None], offsets, size)


def relax(grids: Grids, offsets: Int[Tensor, "masks 2"], size: Size) -> Masks:
    """Enlarge as the authors' code: bilinear to the image's size, 3 pixels reflected, cut out at a random offset."""
    large = F.interpolate(grids[:, None], size, mode="bilinear", align_corners=False)
    return _cut(F.pad(large, [RELAX_PAD] * 4, mode="reflect"), offsets, size)


def nearest(grids: Grids, offsets: Int[Tensor, "masks 2"], size: Size) -> Masks:
    """Enlarge to hard cells that stay in place, as LaFAM's experiments (torch's "nearest"); the offsets do nothing."""
    return F.interpolate(grids[:, None], size, mode="nearest")[:, 0]


KINDS: dict[str, Callable[[Grids, Int[Tensor, "masks 2"], Size], Masks]] = {
    "rise": rise,
    "relax": relax,
    "nearest": nearest,
}


class RandomMasks:
    """The masks of one run, handed out in pieces of any length.

    Args:
        kind: A name in `KINDS`.
        size: The image's (rows, cols).
        cells: Cells along each side of the grid.
        p: The probability that a cell is visible.
        seed: The seed of the masks.
        like: A tensor on the wanted device; the masks are float32 at least.

    Raises:
        OptionError: When the image is too small for the reflection of "relax" masks.
    """

    def __init__(self, kind: str, size: Size, *, cells: int, p: float, seed: int, like: Tensor) -> None:
        if kind == "relax" and min(size) <= RELAX_PAD:
            raise OptionError(
                f"relax masks need an image larger than {RELAX_PAD} pixels, got {size[0]}×{size[1]}; "
                "use masks='nearest'"
            )
        self._enlarge, self._size, self._cells, self._p = KINDS[kind], size, cells, p
        self._offsets = {"rise": _cell(size, cells), "relax": (2 * RELAX_PAD + 1,) * 2}.get(kind, (1, 1))
        self._generator = make_generator(seed, torch.device("cpu"))
        self._device, self._dtype = like.device, upcast(like[:0]).dtype

    def next(self, n: int) -> Masks:
        """Return the next `n` masks, in [0, 1]; 1 is visible."""
        draws = [self._draw() for _ in range(n)]
        grids = torch.stack([grid for grid, _ in draws]).to(self._device, self._dtype, non_blocking=True)
        return self._enlarge(grids, torch.tensor([offset for _, offset in draws]), self._size)

    def pieces(self, n: int, batch: int, batch_size: int) -> Iterator[Masks]:
        """Yield `n` masks in pieces that make passes of about `batch_size` images of a batch."""
        for start, stop in chunks(n, batch, batch_size):
            yield self.next(stop - start)

    def _draw(self) -> tuple[Tensor, list[int]]:
        """Draw one mask's grid and offset: always the same number of draws, one mask after the other."""
        grid = torch.rand(self._cells, self._cells, generator=self._generator) < self._p
        return grid, [int(torch.randint(n, (), generator=self._generator)) for n in self._offsets]


def _weights(grids: Grids, length: int) -> Float[Tensor, "length cells"]:
    """Return what each cell adds to each of `length` pixels along one side."""
    cells = grids.shape[-1]
    centers = (torch.arange(length, dtype=grids.dtype, device=grids.device) + 0.5) * cells / length - 0.5
    below = centers.floor()
    weights = grids.new_zeros(length, cells)
    for cell, share in ((below, 1 - (centers - below)), (below + 1, centers - below)):
        mirrored = (cells - 1) - ((cells - 1) - cell.abs()).abs() if cells > 1 else cell * 0
        weights.scatter_add_(1, mirrored.long()[:, None], share[:, None])
    return weights


def _cell(size: Size, cells: int) -> Size:
    """Pixels of a cell, rounded up so that the cells cover the image."""
    return -(-size[0] // cells), -(-size[1] // cells)


def _cut(large: Float[Tensor, "masks 1 height width"], offsets: Int[Tensor, "masks 2"], size: Size) -> Masks:
    places = zip(large[:, 0], offsets.tolist(), strict=True)
    return torch.stack([m[top : top + size[0], left : left + size[1]] for m, (top, left) in places])


def apply_masks(x: Float[Tensor, "batch channels height width"], masks: Float[Tensor, "masks height width"]) -> Tensor:
    """Compute x ⊙ M for every mask, (masks·batch, channels, height, width): whole batches one after the other.

    `x` is normalized, so what a mask hides gets the mean color of the training data.
    """
    return (x * masks[:, None, None].to(x.dtype)).flatten(0, 1)


def check_probability(p: float) -> None:
    """Raise `OptionError` unless p is a probability above 0."""
    if not 0 < p <= 1:
        raise OptionError(f"p={p!r} is not above 0 and at most 1; use for example 0.5")
