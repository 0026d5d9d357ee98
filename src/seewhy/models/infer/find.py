"""The structure of an unknown module, from one forward and backward pass of random images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import nn

from seewhy.errors import LayoutError, ModelError
from seewhy.models.infer.blocks import find_blocks, find_norms
from seewhy.models.infer.evidence import Evidence
from seewhy.models.infer.layouts import LayoutHints
from seewhy.models.infer.outputs import NO_BOX_NOTE, OutputHints, OutputSpec, infer_output
from seewhy.models.infer.stages import GridLayer, StageFinder
from seewhy.models.infer.tokens import find_token_grid
from seewhy.models.infer.trace import Trace, trace_forward
from seewhy.models.instrument.hooks import INFERENCE, made_in_inference_mode
from seewhy.models.structure import Block, Layer, Structure

SEQUENCE_NOTE = (
    "its transformer keeps (tokens, batch, dim), so methods that read attention or tokens are not offered; "
    "make it with batch_first=True"
)
VOLUME_TOKENS = (
    "the tokens of volumes are not laid out; saliency, integrated_gradients, occlusion, rise and relax need no layer, "
    "or choose one with layer="
)
GROUPS_NOTE = (
    "the tokens of its last blocks are no patches of the image, so the layer for gradients comes before them, and "
    "methods that read attention or tokens are not offered"
)
BEFORE_ATTENTION_NOTE = (
    "the layer for gradients comes before all attention, as no later one is known to lie on a grid of the image; "
    "layers= names a better one"
)
NO_MAPS_NOTE = (
    "no layer is known to lie on a grid of the image, so methods that read feature maps are not offered, unless "
    "layers= names some"
)
CUT_NOTE = (
    "no gradient comes from the result back to the image (torch.no_grad() or detach() in forward), so methods that "
    "need one are not offered; take it out of forward, and freeze the backbone by requires_grad_(False)"
)
TRUNK = 8
"""Pixels per cell from which on a layer is more than a stem, and may stand for the branches that begin behind it."""


def find_structure(
    module: nn.Module,
    size: tuple[int, ...],
    *,
    layers: Sequence[str | Layer] | None = None,
    layout_hints: LayoutHints | None = None,
    output_hints: OutputHints | None = None,
) -> Structure:
    """Look inside a module; it is left as it was.

    Args:
        module: Any module that takes images.
        size: Channels, rows and columns of the images; of volumes channels, depth, rows and columns.
        layers: The feature layers from shallow to deep, instead of those found.
        layout_hints: What the user said of layouts and tokens.
        output_hints: What the user said of the result.

    Raises:
        LayoutError: Something is ambiguous; the message says which argument settles it.
        ModelError: It does not run on such images, or gradients do not pass it.
    """
    if made_in_inference_mode(module):
        raise ModelError(f"looking inside takes a backward pass, and gradients do not pass {INFERENCE}")
    with torch.inference_mode(False), torch.enable_grad():
        trace = trace_forward(module, size)
        output = infer_output(trace, output_hints or OutputHints())
        return _structure(trace, output, layers, layout_hints or LayoutHints())


def known_or_found(known: Callable[[nn.Module], Structure], module: nn.Module, size: tuple[int, int, int]) -> Structure:
    """Return what a library's source knows of a module, else what is found by looking.

    Args:
        known: The `structure` of a source.
        module: A module of that library.
        size: Channels, rows and columns of its images.

    Raises:
        LayoutError: Nothing is known, and what is found is ambiguous.
    """
    try:
        return known(module)
    except LayoutError as reason:
        try:
            return find_structure(module, size)
        except ModelError as other:
            raise LayoutError(f"{reason} ({other})") from other


def _structure(trace: Trace, output: OutputSpec, layers: Sequence[str | Layer] | None, hints: LayoutHints) -> Structure:
    if output.note == NO_BOX_NOTE:
        return Structure(
            source="module",
            read=output.read,
            has_logits=False,
            has_embedding=False,
            boxes_in=output.boxes_in,
            note=output.note,
        )
    evidence = Evidence(trace, output.pooled, hints)
    is_volume = len(trace.size) == 3
    if is_volume and hints.layout is None:
        _check_axes(trace)
    blocks = [] if is_volume else find_blocks(evidence)  # tokens of volumes are not laid out
    try:
        grid = None if is_volume else find_token_grid(evidence, blocks)
    except LayoutError:
        if output.boxes_in is None:
            raise
        blocks, grid = [], None  # a detector's own tokens lie behind those of the patches
    notes = [output.note]
    if grid and blocks and evidence.tokens_of(blocks[-1].call) != grid.tokens:
        blocks = []
        notes.append(GROUPS_NOTE)
    finder = StageFinder(evidence, grid, blocks, partial(_is_result, evidence, output))
    ask = ""
    if layers is None:
        stages = finder.stages()
        cam = _deepest(finder, _candidates(finder, stages))
        branches = finder.branches(cam)
        if branches and (joined := _where_branches_join(finder, stages, cam)):
            cam, branches = joined, []
        if branches and cam and (len(branches) == 1 or _cell_size(trace, cam) >= TRUNK):
            notes.append(_note_on_branches(branches))
            stages = [stage for stage in stages if stage.call.end <= cam.call.end]
        elif branches:
            ask = _why_to_ask(branches)
            known_names = {stage.layer.name for stage in stages}
            stages = [*stages, *(b for b in branches if b.layer.name not in known_names)]
            stages = sorted(stages, key=lambda layer: layer.call.end)
    else:
        stages = [finder.named(layer) for layer in layers]
        cam = _deepest(finder, stages)
    if is_volume and trace.attention_calls and (cam is None or cam.call.end < trace.attention_calls[-1].time):
        ask = ask or VOLUME_TOKENS
    last = finder.grid_layer(blocks[-1].call) if blocks else None
    prefix = grid.prefix if grid else 0
    reads_patches = last is not None and finder.reaches_score(last)
    read = finder.prefix_reaching_score(last.call, prefix) if last else []
    is_sequence = last is not None and last.layer.layout == "sequence"
    notes += [SEQUENCE_NOTE] if is_sequence else []
    if not evidence.bottlenecks:
        notes.append(CUT_NOTE)
    elif not stages:
        notes.append(NO_MAPS_NOTE)
    attended = [attention.time for attention in trace.attention_calls]
    if cam and not blocks and GROUPS_NOTE not in notes and attended and cam.call.end < min(attended):
        notes.append(BEFORE_ATTENTION_NOTE)
    known: tuple[Block, ...] = () if is_sequence else tuple(block.block for block in blocks)
    return Structure(
        source="module",
        stages=tuple(stage.layer for stage in stages),
        cam_layer=cam.layer if cam and not ask else None,
        ask=ask,
        blocks=known,
        prefix_tokens=prefix,
        # beside patches that count, several prefix tokens that do as well may be registers in a mean over all
        class_token=0 in read and (len(read) == 1 or not reads_patches),
        reads_patches=reads_patches,
        patch_size=evidence.stride(grid.cells) if grid else None,
        pads=False,
        head=output.head,
        read=output.read,
        logits_of_head=output.logits_of_head,
        has_logits=output.has_logits,
        classes=output.classes,
        has_embedding=output.has_embedding,
        has_gradients=bool(evidence.bottlenecks),
        multi_label=output.multi_label,
        has_segmentation=output.has_segmentation,
        volume=is_volume,
        boxes_in=output.boxes_in,
        note="; ".join(filter(None, notes)),
    )


def _check_axes(trace: Trace) -> None:
    """Check by the first 3-D convolution that the axes of volumes are what the user says they are.

    Raises:
        LayoutError: There is none, or it takes other channels.
    """
    first = next((c for c in sorted(trace.calls, key=lambda c: c.start) if isinstance(c.module, nn.Conv3d)), None)
    channels = trace.leaf.shape[1]
    if first is None:
        problem = "it has no 3-D convolution"
    elif first.inputs and first.inputs[0].shape[1] != channels:
        problem = f"its first 3-D convolution takes {first.inputs[0].shape[1]} channels, not {channels}"
    else:
        return
    raise LayoutError(
        f"{problem}, so it may be that it does not take (batch, channels, depth, rows, cols): of videos (batch, "
        "frames, channels, …) and of bags of tiles wrap a module that takes volumes and swaps the axes; if it does, "
        "say wrap(module, layout='ncdhw')"
    )


def _candidates(finder: StageFinder, stages: Sequence[GridLayer]) -> list[GridLayer]:
    """Return the layers that gradients may be taken at, in order: all information of the score passes each of them."""
    # a norm before the attention hears from all patches what the class token will read
    norms = [layer for block in finder.blocks if (layer := finder.grid_layer(block.norm))]
    if norms:
        return norms
    norms = [layer for call in find_norms(finder.evidence) if (layer := finder.grid_layer(call))]
    on_way = [stage for stage in stages if finder.evidence.is_bottleneck(stage.call)]
    return sorted([*on_way, *norms], key=lambda layer: layer.call.end)


def _is_result(evidence: Evidence, output: OutputSpec, layer: GridLayer) -> bool:
    """Tell whether a map already holds the class scores of its cells (a segmentation's own output)."""
    channels = layer.call.shape[1 if layer.layer.layout in ("nchw", "ncdhw") else -1]
    return channels == output.classes and evidence.trace.is_linear_from(output.result, layer.call)


def _where_branches_join(
    finder: StageFinder, stages: Sequence[GridLayer], before: GridLayer | None
) -> GridLayer | None:
    """Return the deepest map behind branches that have come together on a grid (the decoder of a segmentation net)."""
    start = before.call.end if before else -1
    behind = [stage for stage in stages if stage.call.end > start and finder.evidence.is_bottleneck(stage.call)]
    joined = _deepest(finder, behind)
    return joined if joined and not finder.branches(joined) else None


def _deepest(finder: StageFinder, candidates: Sequence[GridLayer]) -> GridLayer | None:
    return next((layer for layer in reversed(candidates) if finder.reaches_score(layer)), None)


def _why_to_ask(branches: Sequence[GridLayer]) -> str:
    """Say why no layer stands for the whole model: several branches lead from the last that does to the score."""
    return (
        "several branches lead to the score, so no deep layer stands for all of it; choose one with layer=: "
        f"{_names(branches)}"
    )


def _note_on_branches(branches: Sequence[GridLayer]) -> str:
    return (
        "branches lead to the score behind the default layer, which stands for all of them; layer= takes the end of "
        f"one: {_names(branches)}"
    )


def _cell_size(trace: Trace, layer: GridLayer) -> int:
    """Return pixels per cell along the axis where they are fewest."""
    return min(pixels // cells for pixels, cells in zip(trace.size, layer.cells, strict=True))


def _names(branches: Sequence[GridLayer]) -> str:
    return ", ".join(repr(layer.layer.name) for layer in branches[-4:])
