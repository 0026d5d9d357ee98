"""Adapters of real modules against references that a test brings: plain modules, grids, matrices, whole graphs.

`seewhy.checks.check_model` asks what a model can be asked by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from seewhy.checks.model_case import answer
from seewhy.checks.state import change, model_state
from seewhy.models.adapter import VisionModel
from seewhy.models.instrument.hooks import untouched
from seewhy.models.structure import Layer


def shaken(module: nn.Module) -> nn.Module:
    """In eval mode with all parameters random and far from zero: fresh models have many that hide mistakes."""
    generator = torch.Generator().manual_seed(7)
    for name, p in module.named_parameters():
        noise = torch.randn(p.shape, generator=generator)
        fan_in = max(1, p[0].numel()) if p.ndim > 1 else 1
        is_norm_weight = p.ndim == 1 and name.endswith("weight")
        p.data = 1 + 0.2 * noise if is_norm_weight else noise * (0.3 if p.ndim < 2 else 1.2 * fan_in**-0.5)
    for name, b in module.named_buffers():
        if name.endswith("running_var"):
            b.data = b + torch.rand(b.shape, generator=generator)
    return module.eval()


@contextmanager
def left_alone(module: nn.Module):
    """Everything that `seewhy.checks` compares of a module is afterwards what it was."""
    before = model_state(module)
    yield
    assert not change(before, model_state(module))


def image(rows: int, cols: int, batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, rows, cols, generator=torch.Generator().manual_seed(rows + 31 * cols))


def check_run(model: VisionModel, x: Tensor, logits: Tensor | None, embedding: Tensor) -> None:
    """`run` gives exactly what the plain module gives."""
    with torch.no_grad(), left_alone(model.module), untouched(model.module):
        output = model.run(x)
    assert (output.logits is None) == (logits is None)
    if logits is not None:
        assert torch.equal(output.logits, logits)
        assert model.classes == logits.shape[1]
    assert torch.equal(output.embedding, embedding)
    assert ("logits" in model.capabilities) == (logits is not None)


def check_places(model: VisionModel, x: Tensor, stages: Sequence[Layer], grids: Sequence[tuple[int, int]]) -> None:
    """Each map has the expected rows and columns, and changes most in the corner where the image was changed."""
    with left_alone(model.module):
        before = model.activations(x, stages)
    assert [tuple(before[s.name].shape[2:]) for s in stages] == list(grids)
    height, width = x.shape[-2:]
    for top, right in ((True, True), (False, False), (True, False)):
        changed = x.clone()
        rows = slice(0, height // 4) if top else slice(-height // 4, None)
        cols = slice(-width // 4, None) if right else slice(0, width // 4)
        changed[..., rows, cols] += 10
        after = model.activations(changed, stages)
        for stage in stages:
            if len(stages) > 1 and min(before[stage.name].shape[2:]) < 8:  # one cell sees nearly all of the image
                continue
            change = (after[stage.name] - before[stage.name]).abs().sum((0, 1))
            row, col = divmod(int(change.argmax()), change.shape[1])
            assert (row < change.shape[0] / 2, col >= change.shape[1] / 2) == (top, right), stage.name


def check_attention(model: VisionModel, x: Tensor, reference: Sequence[Tensor]) -> None:
    """The matrices are those of the slow path, and the output is the same while they are read."""
    with torch.no_grad():
        plain = answer(model.run(x))
    for differentiable in (False, True):
        found: dict[int, Tensor] = {}
        with (
            torch.no_grad(),
            left_alone(model.module),
            model.attention(found.__setitem__, x, differentiable=differentiable),
        ):
            output = answer(model.run(x))
        assert len(found) == len(reference) == len(model.structure.blocks)
        for block, matrix in enumerate(reference):
            torch.testing.assert_close(found[block], matrix, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(output, plain, atol=1e-5, rtol=1e-4)
    some: dict[int, Tensor] = {}
    with torch.no_grad(), model.attention(some.__setitem__, x, blocks=[-1], rows=slice(0, 1)):
        assert torch.equal(answer(model.run(x)), plain)
    last = len(reference) - 1
    assert list(some) == [last]
    torch.testing.assert_close(some[last], reference[last][:, :, :1], atol=1e-5, rtol=1e-4)


def check_tail(model: VisionModel, x: Tensor, layer: Layer) -> None:
    """What is above the layer gives the same output from the stored value, also for several batches in a row."""
    with torch.no_grad(), left_alone(model.module):
        expected = answer(model.run(x))
        tail = model.tail(x, layer)
        torch.testing.assert_close(answer(tail(tail.value)), expected, atol=1e-6, rtol=1e-5)
        other = tail.value + torch.randn_like(tail.value)
        three = torch.cat([tail.value, other, tail.value])
        tiled = answer(tail(three)).unflatten(0, (3, len(x)))
        torch.testing.assert_close(tiled[0], expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(tiled[2], expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(tiled[1], answer(tail(other)), atol=1e-5, rtol=1e-5)
        assert not torch.allclose(tiled[1], expected, atol=1e-3)


def check_cut(model: VisionModel, x: Tensor, layer: Layer) -> None:
    """Gradients at the layer are those of the whole graph, reach every cell, and no parameter gets one."""

    def score() -> Tensor:
        output = answer(model.run(x))
        return (output * torch.linspace(-1, 1, output.shape[1])).sum()

    with left_alone(model.module), torch.no_grad(), model.leaf_at(layer) as leaf:
        (gradient,) = torch.autograd.grad(score(), leaf[0])
    kept: list[Tensor] = []
    handle = model.submodule(layer.name).register_forward_hook(
        lambda _, __, output: kept.append(output if isinstance(output, Tensor) else output[0])
    )
    try:
        (reference,) = torch.autograd.grad(score(), kept)
    finally:
        handle.remove()
    torch.testing.assert_close(gradient, reference, atol=1e-5, rtol=1e-4)
    cells = model.to_grid(gradient, layer, x.shape[-2:]).abs().sum(1)
    assert (cells > 0).all(), "a cell of this layer does not reach the score"


def check_all(
    model: VisionModel,
    x: Tensor,
    plain: Callable[[Tensor], tuple[Tensor | None, Tensor]],
    shapes: Sequence[tuple[int, int]],
) -> None:
    """All of the above but attention, which needs a reference."""
    with torch.no_grad():
        logits, embedding = plain(x)
    check_run(model, x, logits, embedding)
    check_places(model, x, model.structure.stages, shapes)
    check_tail(model, x, model.structure.cam_layer)
    check_cut(model, x, model.structure.cam_layer)
