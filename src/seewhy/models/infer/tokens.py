"""Inference of the token grid: which tokens are patches, and on how many rows and columns."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from seewhy.errors import LayoutError
from seewhy.models.infer.blocks import TracedBlock, find_norms
from seewhy.models.infer.evidence import Evidence
from seewhy.models.infer.layouts import LayoutHints, sides
from seewhy.models.infer.trace import token_axes


@dataclass(frozen=True)
class TokenGrid:
    """Layout of tokens: prefix tokens first, then the patches, row by row.

    Attributes:
        rows: Rows of patches.
        cols: Columns of patches.
        prefix: Tokens before the patches.
    """

    rows: int
    cols: int
    prefix: int

    @property
    def cells(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.rows, self.cols

    @property
    def tokens(self) -> int:
        """The number of all tokens."""
        return self.prefix + self.rows * self.cols


def find_token_grid(evidence: Evidence, blocks: Sequence[TracedBlock]) -> TokenGrid | None:
    """Tell how the patch tokens lie: of the blocks, or of what else takes tokens on the way to the score (a mixer).

    Tokens of the blocks that were merged, `factor` × `factor` to one, lie on the coarser grid; of those that stand for
    groups of patches anywhere, nothing lies on a grid but what they were made from.

    Raises:
        LayoutError: It cannot be known.
    """
    calls = [block.call for block in blocks] or find_norms(evidence)
    if not calls:
        calls = [c for c in evidence.calls if evidence.is_bottleneck(c) and evidence.is_token_to_token(c)]
    if not calls:
        return None
    axes = token_axes(calls[0].shape)
    tokens = axes.tokens if axes else 0
    try:
        return infer_token_grid(evidence, tokens, calls[0].start)
    except LayoutError:
        first = _first_tokens(evidence, tokens)
        if first:
            cells = scaled(first.cells, tokens) if evidence.come_from_image(tokens) else None
            return TokenGrid(*cells, 0) if cells else first
        if blocks or evidence.hints != LayoutHints(layout=evidence.hints.layout):
            raise
        return None  # no tokens of an image at all, as far as anybody knows


def _first_tokens(evidence: Evidence, tokens: int) -> TokenGrid | None:
    """Return the grid of the tokens that came first, if they were more: these were merged from them."""
    all_axes = (token_axes(call.shape) for call in evidence.calls if evidence.is_token_to_token(call))
    first = next((axes for axes in all_axes if axes), None)
    if first is None or first.tokens <= tokens:
        return None
    try:
        return infer_token_grid(evidence, first.tokens, evidence.trace.calls[-1].end)
    except LayoutError:
        return None


def scaled(cells: tuple[int, int], tokens: int) -> tuple[int, int] | None:
    """Return rows and columns of so many tokens in proportion to a grid, by a whole factor; None: there is none."""
    rows, cols = cells
    factor = math.isqrt(max(rows * cols, tokens) // max(1, min(rows * cols, tokens)))
    new = (rows // factor, cols // factor) if tokens < rows * cols else (rows * factor, cols * factor)
    return new if factor > 1 and new[0] * new[1] == tokens and min(new) > 1 else None


def infer_token_grid(evidence: Evidence, tokens: int, before: int) -> TokenGrid:
    """Tell how so many tokens lie, as first seen.

    Args:
        evidence: What the trace says.
        tokens: The number of tokens, prefix included.
        before: When the layer that takes them started.

    Raises:
        LayoutError: It cannot be known.
    """
    nowhere = torch.zeros(2, tokens, dtype=torch.bool)
    everywhere, top = evidence.trace.differing_tokens.get(tokens, nowhere)
    prefix = _count_prefix(everywhere, evidence.hints.prefix_tokens)
    rows, cols = _patch_grid(evidence, tokens, prefix, before) or _measured_grid(evidence, tokens, prefix or 0, top)
    height, width = evidence.trace.size
    stride = evidence.stride((rows, cols))
    if (height // stride[0], width // stride[1]) != (rows, cols):
        raise LayoutError(
            f"{rows}×{cols} patches do not divide images of {height}×{width}; "
            "give an input_size that is a multiple of the patch size"
        )
    return TokenGrid(rows, cols, tokens - rows * cols)


def _count_prefix(differing: Tensor, hint: int | None) -> int | None:
    """Count the tokens before the first that depends on the image; None: there are none, or all depend on it."""
    tokens = len(differing)
    patches = int(differing.sum())
    if not 0 < patches < tokens:  # there is no prefix, or its tokens depend on the image as well
        return hint
    if not differing[tokens - patches :].all():
        raise LayoutError(
            "tokens that do not depend on the image come after the patch tokens or between them; "
            "reorder them in the module, so that they come first"
        )
    return tokens - patches if hint is None else hint


def _patch_grid(evidence: Evidence, tokens: int, prefix: int | None, before: int) -> tuple[int, int] | None:
    """Return rows and columns from the user's patch size, or from the last map that became tokens."""
    if evidence.hints.patch_size:
        rows, cols = evidence.stride(evidence.hints.patch_size)  # pixels by pixels per patch
        if rows * cols > tokens or prefix not in (None, tokens - rows * cols):
            raise LayoutError(
                f"{tokens} tokens are not {prefix or 0} + {rows}×{cols}; check patch_size= and prefix_tokens="
            )
        return rows, cols
    grid = None
    for call in evidence.trace.calls:
        if call.value is None or call.end >= before or evidence.layouts.evidence.get(id(call.value)) != "nchw":
            continue
        rows, cols = sides(call.value, "nchw")
        cells = rows * cols
        all_there = cells == tokens - prefix if prefix is not None else tokens // 2 < cells <= tokens
        if all_there and evidence.layouts.fits(rows, cols):
            grid = rows, cols
    return grid


def _measured_grid(evidence: Evidence, tokens: int, prefix: int, top: Tensor) -> tuple[int, int]:
    """Return rows and columns by the tokens that the image's top row of pixels reaches: the first row of patches."""
    cols = int(top[prefix:].sum())
    in_order = 0 < cols < tokens - prefix and bool(top[prefix : prefix + cols].all())
    # patches that overlap give a multiple of their columns, far off the image's proportions
    rows, rest = divmod(tokens - prefix, max(1, cols))
    if not in_order or rest or not evidence.layouts.fits(rows, cols, tolerance=1):
        raise LayoutError(
            f"cannot infer the token grid from {tokens} tokens; pass wrap(module, patch_size=…, prefix_tokens=…)"
        )
    return rows, cols
