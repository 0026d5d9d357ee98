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

from seewhy.core.maps import linear, upcast
from seewhy.errors import OptionError
from seewhy.methods.base import chunks, make_generator

Grids = Float[Tensor, "masks *cells"]
Masks = Float[Tensor, "masks *size"]
Offsets = Int[Tensor, "masks axes"]
Size = tuple[int, ...]
"""(rows, cols) of images, (depth, rows, cols) of volumes."""

RELAX_PAD = 3
"""Pixels that a "relax" mask can be shifted by, in each direction."""


def rise(grids: Grids, offsets: Offsets, size: Size) -> Masks:
    """Enlarge as Petsiuk et al., section 3.2: bilinear to (s + 1) cells, cut out at a random offset within a cell.

    In the outermost half cell the grid goes on as its mirror image about the center of the last cell, as in their code.
    """
    *depth, rows, cols = (_weights(grids, (grids.shape[-1] + 1) * side) for side in _cell(size, grids.shape[-1]))
    for weights in depth:
        grids = (grids.movedim(1, -1) @ weights.mT).movedim(-1, 1)
    return _cut(rows @ grids @ cols.mT, offsets, size)


def relax(grids: Grids, offsets: Offsets, size: Size) -> Masks:
    """Enlarge as the authors' code: bilinear to the image's size, 3 pixels reflected, cut out at a random offset."""
    large = F.interpolate(grids[:, None], size, mode=linear(grids[:, None]), align_corners=False)
    return _cut(F.pad(large, [RELAX_PAD] * 2 * len(size), mode="reflect")[:, 0], offsets, size)


def nearest(grids: Grids, offsets: Offsets, size: Size) -> Masks:
    """Enlarge to hard cells that stay in place, as LaFAM's experiments (torch's "nearest"); the offsets do nothing."""
    return F.interpolate(grids[:, None], size, mode="nearest")[:, 0]


KINDS: dict[str, Callable[[Grids, Offsets, Size], Masks]] = {
    "rise": rise,
    "relax": relax,
    "nearest": nearest,
}


class RandomMasks:
    """The masks of one run, handed out in pieces of any length.

    Args:
        kind: A name in `KINDS`.
        size: The image's (rows, cols), of a volume (depth, rows, cols).
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
                f"relax masks need an image larger than {RELAX_PAD} pixels, got {'×'.join(map(str, size))}; "
                "use masks='nearest'"
            )
        self._enlarge, self._size, self._cells, self._p = KINDS[kind], size, cells, p
        still = (1,) * len(size)
        self._offsets = {"rise": _cell(size, cells), "relax": (2 * RELAX_PAD + 1,) * len(size)}.get(kind, still)
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
        grid = torch.rand([self._cells] * len(self._size), generator=self._generator) < self._p
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
    return tuple(-(-side // cells) for side in size)


def _cut(large: Float[Tensor, "masks *larger"], offsets: Offsets, size: Size) -> Masks:
    def window(offset: list[int]) -> tuple[slice, ...]:
        return tuple(slice(start, start + side) for start, side in zip(offset, size, strict=True))

    return torch.stack([mask[window(offset)] for mask, offset in zip(large, offsets.tolist(), strict=True)])


def apply_masks(x: Float[Tensor, "batch channels *size"], masks: Float[Tensor, "masks *size"]) -> Tensor:
    """Compute x ⊙ M for every mask, (masks·batch, channels, …): whole batches one after the other.

    `x` is normalized, so what a mask hides gets the mean color of the training data.
    """
    return (x * masks[:, None, None].to(x.dtype)).flatten(0, 1)


def check_probability(p: float) -> None:
    """Raise `OptionError` unless p is a probability above 0."""
    if not 0 < p <= 1:
        raise OptionError(f"p={p!r} is not above 0 and at most 1; use for example 0.5")
