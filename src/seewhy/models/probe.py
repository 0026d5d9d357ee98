"""Where is this token? Poke the image and see.

Names and shapes can lie: tokens come in another order, behind a prefix that nobody counted, on a grid with its sides
swapped. So one patch of an image is changed at a time, and the cell of a layer that changes most must be the one that
the structure says lies there. A few pokes in one batch settle the order, the grid, the stride and the prefix.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from seewhy.errors import LayoutError
from seewhy.models.adapter import VisionModel
from seewhy.models.instrument.hooks import collecting, untouched
from seewhy.models.structure import Layer, Structure

POKES = 7
"""How many patches are changed, one in each image of a batch; one image more stays as it is."""
ENOUGH = 0.7
"""The share of pokes that must be found in their place."""
SHIFTED = 0.6
"""How many cells all pokes must be off on average, to count as a shift."""
FAINT = 1e-4
"""The change, as a share of the layer's largest value, below which rounding could be what is seen."""
FOLLOWS = 0.7
"""The least correlation between the places of pokes and of what changes most, along each axis."""
CLEAR = 3.0
"""How much more a wrong cell must change than the right one, to count as evidence against the right one."""

Box = tuple[int, int, int, int]
"""Top, bottom, left and right of a patch, in pixels."""
Order = tuple[tuple[int, ...], ...]
"""For each row and column, the patch token that lies there."""


@dataclass(frozen=True)
class Located:
    """What pokes showed of one layer, or of the attention of one block.

    Attributes:
        name: The layer's dotted name; for attention, that of the attention module.
        grid: Rows and columns.
        right: Pokes after which a cell in that place, or beside it, changed most.
        exact: Of those, in that very place.
        elsewhere: Pokes after which a cell in another place changed clearly more.
        pokes: How many pokes there were.
        shift: By how many columns tokens are off on average, if in none of the rows (a prefix counted wrongly: by one).
        follows: Whether the cells that change most go where the pokes go, along rows and along columns.
        faint: Whether all changes drown in rounding (fresh weights can let signals die out): nothing can be told.
        problem: Why the output could not be laid out at all; empty: it could.
    """

    name: str
    grid: tuple[int, int] = (0, 0)
    right: int = 0
    exact: int = 0
    elsewhere: int = 0
    pokes: int = POKES
    shift: float = 0.0
    follows: bool = True
    faint: bool = False
    problem: str = ""

    @property
    def is_right(self) -> bool:
        """Whether the cells lie where the structure says."""
        return not self.problem and self.right >= ENOUGH * self.pokes and self.exact > 1 and not self.is_shifted

    @property
    def is_shifted(self) -> bool:
        """Whether all tokens lie further in one direction than they should."""
        return self.exact <= 1 and abs(self.shift) >= SHIFTED

    @property
    def is_wrong(self) -> bool:
        """Whether the cells lie elsewhere for certain; a layer can be neither right nor wrong."""
        elsewhere = self.elsewhere > 1 and self.elsewhere > (self.pokes - self.right) / 2
        return bool(self.problem) or (not self.faint and (self.is_shifted or (not self.is_right and elsewhere)))

    @property
    def is_lost(self) -> bool:
        """Whether no change shows in its place, without showing clearly in another."""
        return not self.problem and not self.faint and self.right <= 1 and not self.follows

    def __str__(self) -> str:
        rows, cols = self.grid
        if self.is_shifted and not self.problem:
            return (
                f"{self.name}: changed patches show {self.shift:+.1f} tokens off; is its number of prefix tokens right?"
            )
        found = f"{self.right} of {self.pokes} changed patches show in their place on {rows}×{cols} cells"
        return f"{self.name}: {self.problem or found}"


def locate(
    model: VisionModel,
    layers: Sequence[Layer] | None = None,
    *,
    size: tuple[int, int] | None = None,
    channels: int = 3,
    seed: int = 0,
) -> list[Located]:
    """Change one patch of an image at a time and see which cell of each layer changes most.

    One forward of eight images, without gradients. The module and the random state stay as they were.

    Args:
        model: The model.
        layers: Which layers; None: all stages, the layer for gradients, and the attention of the first and last block.
        size: Rows and columns of the images; None: as the preprocessing makes them.
        channels: Channels of the images.
        seed: Of the random numbers that a module may draw in its forward.

    Returns:
        What was seen of each layer with more than two rows and columns, in order.

    Raises:
        LayoutError: The size is not known.
    """
    structure = model.structure
    blocks = () if layers is not None else (0, len(structure.blocks) - 1)[: len(structure.blocks)]
    if layers is None:
        layers = list(dict.fromkeys([*structure.stages, *filter(None, [structure.cam_layer])]))
    size = size or getattr(model.preprocess, "size", None)
    if size is None:
        raise LayoutError("the preprocessing does not tell the size of the images; say size=(rows, cols)")
    boxes = list(_boxes(size, structure.patch_size or (32, 32)))
    images = _poked(model, size, channels, boxes)
    try:
        values, changes = _run(model, layers, blocks, images, seed)
    except LayoutError:  # attention that cannot be read is in no wrong place
        values, changes = _run(model, layers, (), images, seed)
    found: list[Located] = []
    for layer in layers:
        try:
            maps = model.to_grid(values[layer.name], layer, size).double()
        except LayoutError as error:
            found.append(Located(layer.name, problem=str(error)))
            continue
        if min(maps.shape[-2:]) > 2:
            change = maps[1:] - maps[:1]
            change = change - change.mean((2, 3), keepdim=True)  # what all cells have in common is no place
            faint = bool(change.abs().max() < FAINT * maps.abs().max())
            located = _located(layer, change.norm(dim=1), boxes, size)
            found.append(replace(located, faint=faint))
    for block, change in changes.items():
        name = structure.blocks[block].attention
        try:
            maps = model.tokens_to_map(change, size)
        except LayoutError as error:
            found.append(Located(name, problem=str(error)))
            continue
        if min(maps.shape[-2:]) > 2:
            found.append(_located(Layer(name, "tokens"), maps, boxes, size))
    return found


_SEEN: dict[Any, Structure | str] = {}
"""By architecture and size, the structure that the probe left, or why it refused."""


def verified(model: VisionModel, size: tuple[int, int], channels: int = 3) -> Structure:
    """Return the model's structure as the probe leaves it: with the order of its tokens, without misplaced stages.

    Models of equal architecture (classes, plain options, shapes of weights) and structure are probed once.

    Args:
        model: The model.
        size: Rows and columns of its images.
        channels: Channels of its images.

    Raises:
        LayoutError: The layer for gradients, or the attention, does not lie as the structure says.
    """
    key = (_architecture(model.module), _comparable(model.structure), size, channels)
    if key not in _SEEN:
        try:
            _SEEN[key] = _verify(model, size, channels)
        except LayoutError as refusal:
            _SEEN[key] = str(refusal)
    seen = _SEEN[key]
    if isinstance(seen, str):
        raise LayoutError(seen)
    return replace(model.structure, stages=seen.stages, cam_layer=seen.cam_layer, blocks=seen.blocks, note=seen.note)


def _architecture(module: nn.Module) -> tuple[Any, ...]:
    """Return what two modules of one architecture have in common: classes, plain options, and shapes."""
    parts = ((name, type(part), _options(part)) for name, part in module.named_modules())
    tensors = chain(module.named_parameters(), module.named_buffers())
    return tuple(parts), tuple((name, tuple(tensor.shape)) for name, tensor in tensors)


def _options(part: nn.Module) -> tuple[Any, ...]:
    plain = ((k, v) for k, v in vars(part).items() if k != "training" and isinstance(v, (bool, int, float, str)))
    return tuple(sorted(plain))


def checked(model: VisionModel) -> VisionModel:
    """Return the model, with its structure put to the test if it was found by looking (see `verified`).

    Raises:
        LayoutError: As `verified`.
    """
    size = getattr(model.preprocess, "size", None)
    if model.structure.source == "module" and size is not None:
        model.structure = verified(model, size)
    return model


def _comparable(structure: Structure) -> tuple[Any, ...]:
    found = structure.stages, structure.cam_layer, structure.blocks, structure.prefix_tokens, structure.patch_size
    return *found, structure.note


def _verify(model: VisionModel, size: tuple[int, int], channels: int) -> Structure:
    structure = model.structure
    found = locate(model, size=size, channels=channels)
    doubtful = {located.name for located in found if located.is_wrong or located.is_lost}
    if not doubtful:
        return structure
    cam = structure.cam_layer
    misplaced = [layer for layer in dict.fromkeys([*structure.stages, *filter(None, [cam])]) if layer.name in doubtful]
    orders = find_orders(model, misplaced, size, channels)
    wrong = [located for located in found if located.is_wrong]
    names = {located.name for located in wrong}
    if not wrong and not orders:
        return structure
    blocks_wrong = names & {block.attention for block in structure.blocks}
    lost = [layer for layer in structure.stages if layer.name in names and layer not in orders]
    kept = tuple(orders.get(layer, layer) for layer in structure.stages if layer not in lost)
    if (cam and cam.name in names and cam not in orders) or not kept:
        first = next(located for located in wrong if cam is None or located.name == cam.name or not kept)
        raise LayoutError(
            f"{first}; say which layers lie on a grid, wrap(module, layers=[…]), or how its tokens lie, structure="
            "Structure(…); verify=False leaves this check out"
        )
    notes = [structure.note]
    if orders:
        notes.append("its tokens do not come row by row; their order was found by changing patches of an image")
    if lost:
        notes.append(f"left out, as changed patches show elsewhere in it: {', '.join(layer.name for layer in lost)}")
    return replace(
        structure,
        stages=kept,
        cam_layer=orders.get(cam, cam) if cam else None,
        blocks=() if orders or blocks_wrong else structure.blocks,
        note="; ".join(filter(None, notes)),
    )


def find_orders(
    model: VisionModel, layers: Sequence[Layer], size: tuple[int, int], channels: int = 3
) -> dict[Layer, Layer]:
    """Find the order of the patch tokens of layers: each patch changes in the images that its number in binary says.

    For each binary digit two images are made, one with the patches changed that have a 1 there, one with the others;
    a token shows its patch's digit by the image in which it changes more.

    Args:
        model: The model.
        layers: The layers.
        size: Rows and columns of the images.
        channels: Channels of the images.

    Returns:
        By layer, the layer with its order, proved by pokes; those are missing that have none that could be found.
    """
    by_grid: dict[tuple[int, int], list[Layer]] = {}
    for layer in layers:
        if layer.layout in ("tokens", "sequence") and (layer.stride or model.structure.patch_size):
            by_grid.setdefault(model.grid(*size, layer.stride), []).append(layer)
    orders: dict[Layer, Layer] = {}
    for cells, same in by_grid.items():
        values, _ = _run(model, same, (), _coded(model, size, channels, cells), seed=0)
        for layer in same:
            with suppress(LayoutError):
                tokens = model.to_grid(values[layer.name], layer, size).flatten(2).double()
                if (order := _decoded(tokens, cells)) is not None:
                    orders[layer] = replace(layer, order=order)
    # with other random numbers, as tokens may be shuffled anew in each forward
    found = locate(model, list(orders.values()), size=size, channels=channels, seed=1) if orders else []
    right = {located.name for located in found if located.is_right}
    return {layer: ordered for layer, ordered in orders.items() if layer.name in right}


def _decoded(tokens: Float[Tensor, "images channels tokens"], cells: tuple[int, int]) -> Order | None:
    """Return the order that the answers to `_coded` images tell; None: it is no order."""
    change = (tokens[1:] - tokens[:1]).norm(dim=1).unflatten(0, (-1, 2))
    digits = (change[:, 0] > change[:, 1]).long()
    patch_of = (digits * (2 ** torch.arange(len(digits), device=digits.device))[:, None]).sum(0)
    token_of = patch_of.argsort()
    if patch_of[token_of].tolist() != list(range(cells[0] * cells[1])):
        return None
    return tuple(map(tuple, token_of.unflatten(0, cells).tolist()))


# ── images and forwards ───────────────────────────────────────────────────────────────────────────────────────────────
def _run(
    model: VisionModel, layers: Sequence[Layer], blocks: Sequence[int], images: Tensor, seed: int
) -> tuple[dict[str, Tensor], dict[int, Tensor]]:
    """Return the outputs of layers by name, and by the number of blocks how attention to each key changes."""
    modules = {layer.name: model.submodule(layer.name) for layer in layers}
    changes: dict[int, Tensor] = {}

    def receive(block: int, matrix: Tensor) -> None:
        # by keys: what is changed is attended to otherwise, in all heads and from all queries; the matrices are large
        first, *others = matrix
        changes[block] = torch.stack([(other - first).double().flatten(0, 1).norm(dim=0) for other in others])

    with torch.no_grad(), untouched(model.module), model.shape_error_context(images):
        torch.default_generator.manual_seed(seed)
        reading = model.attention(receive, images, blocks=blocks) if blocks else nullcontext()
        with collecting(modules, stop=not blocks) as values, reading:
            model.module(images, **model.structure.call)
    return values, changes


def _boxes(size: tuple[int, int], patch: tuple[int, int]) -> Iterator[Box]:
    """Yield patches in general position: no symmetry of the grid maps them onto each other."""
    rows, cols = (max(3, n // p) for n, p in zip(size, patch, strict=True))
    for i in range(POKES):
        row, col = int(rows * ((0.1 + 0.618 * i) % 1)), int(cols * ((0.85 + 0.755 * i) % 1))
        top, left = _edge(row, size[0], rows), _edge(col, size[1], cols)
        yield top, _edge(row + 1, size[0], rows), left, _edge(col + 1, size[1], cols)


def _edge(cell: int, pixels: int, cells: int) -> int:
    return round(cell * pixels / cells)


def _noise(model: VisionModel, size: tuple[int, int], channels: int) -> tuple[Tensor, torch.Generator]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(1, channels, *size, generator=generator), generator


def _poked(
    model: VisionModel, size: tuple[int, int], channels: int, boxes: Sequence[Box]
) -> Float[Tensor, "images channels rows cols"]:
    """Make an image of noise and, for each box, that image with another color there."""
    image, generator = _noise(model, size, channels)
    images = image.repeat(1 + len(boxes), 1, 1, 1)
    for i, (top, bottom, left, right) in enumerate(boxes, start=1):
        sign = torch.randint(0, 2, (channels, 1, 1), generator=generator) * 2 - 1
        images[i, :, top:bottom, left:right] += 2.0 * sign
    return images.to(device=model.device, dtype=model.dtype)


def _coded(model: VisionModel, size: tuple[int, int], channels: int, cells: tuple[int, int]) -> Tensor:
    """Make an image of noise and, for each binary digit of a patch's number, two that change one half each."""
    image, generator = _noise(model, size, channels)
    numbers = torch.arange(cells[0] * cells[1]).unflatten(0, cells).float()[None, None]
    number = torch.nn.functional.interpolate(numbers, size=size, mode="nearest-exact").long()
    sign = torch.randint(0, 2, (1, channels, 1, 1), generator=generator) * 2 - 1
    images = [image]
    for digit in range(max(1, (cells[0] * cells[1] - 1).bit_length())):
        has = (number >> digit) & 1
        images += [image + 2.0 * sign * has, image + 2.0 * sign * (1 - has)]
    return torch.cat(images).to(device=model.device, dtype=model.dtype)


# ── comparing ─────────────────────────────────────────────────────────────────────────────────────────────────────────
def _located(
    layer: Layer, change: Float[Tensor, "pokes rows cols"], boxes: Sequence[Box], size: tuple[int, int]
) -> Located:
    """Compare where each poke shows most with where it was."""
    # what a cell answers to every poke (a register in disguise, a border), and a poke brings to every cell (through
    # attention), is no place: the product of both means is taken off
    of_cell, of_poke = change.mean(0, keepdim=True), change.mean((1, 2), keepdim=True)
    evidence = (change - of_cell * of_poke / (change.mean() + 1e-300)).clamp(min=0)
    rows, cols = change.shape[1:]
    right = exact = elsewhere = 0
    shifts: list[tuple[int, int]] = []
    centers: list[tuple[float, float]] = []
    peaks: list[tuple[int, int]] = []
    for answer, (top, bottom, left, right_edge) in zip(evidence, boxes, strict=True):
        place = _cells_of(top, bottom, size[0], rows), _cells_of(left, right_edge, size[1], cols)
        beside = tuple(slice(max(0, cells.start - 1), cells.stop + 1) for cells in place)  # convolutions spread it
        found = divmod(int(answer.argmax()), cols)
        right += all(cells.start <= cell < cells.stop for cell, cells in zip(found, beside, strict=True))
        exact += all(cells.start <= cell < cells.stop for cell, cells in zip(found, place, strict=True))
        elsewhere += float(answer.max()) > CLEAR * float(answer[beside].max())
        peaks.append(found)
        centers.append(((top + bottom) / 2, (left + right_edge) / 2))
        shifts.append((_outside(found[0], place[0]), _outside(found[1], place[1])))
    down, aside = (sum(values) / len(boxes) for values in zip(*shifts, strict=True))
    is_row = layer.layout in ("tokens", "sequence") and abs(down) < SHIFTED / 2
    return Located(
        layer.name, (rows, cols), right, exact, elsewhere, len(boxes), aside if is_row else 0.0, _follow(peaks, centers)
    )


def _follow(peaks: Sequence[tuple[int, int]], centers: Sequence[tuple[float, float]]) -> bool:
    """Tell whether two lists of places go together along both axes."""
    pairs = torch.tensor([peaks, centers], dtype=torch.float64).permute(2, 0, 1)
    return all(float(torch.corrcoef(along)[0, 1].nan_to_num()) > FOLLOWS for along in pairs)


def _outside(cell: int, cells: slice) -> int:
    """Return -1 before the cells, 1 after them, else 0."""
    return int(cell >= cells.stop) - int(cell < cells.start)


def _cells_of(start: int, stop: int, pixels: int, cells: int) -> slice:
    """Return the cells that a range of pixels lies on."""
    first, last = int(start / pixels * cells + 0.01), -int(-(stop / pixels * cells - 0.01) // 1)
    return slice(first, min(cells, max(last, first + 1)))
