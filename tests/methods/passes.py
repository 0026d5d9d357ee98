"""Counting how many images pass each module, forwards and backwards."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

# position of the output mask (gradient of input, of weight, of bias) among the arguments
MASKED = {"convolution_backward": -1, "native_layer_norm_backward": -1, "native_batch_norm_backward": -1}


@dataclass
class Passes:
    """Rows (images) that each module computed and differentiated, by dotted name."""

    forward: Counter = field(default_factory=Counter)
    backward: Counter = field(default_factory=Counter)
    masks: list = field(default_factory=list)

    def of(self, prefix: str) -> tuple[int, int]:
        """The most rows of any module at or below the dotted name, forwards and backwards."""
        inside = [n for n in {*self.forward, *self.backward} if n == prefix or n.startswith(prefix + ".")]
        return max((self.forward[n] for n in inside), default=0), max((self.backward[n] for n in inside), default=0)


@contextmanager
def counted(module: nn.Module) -> Iterator[Passes]:
    """Wraps `forward` of every submodule: a module that is replayed, not computed, is not counted."""
    passes = Passes()

    def wrap(name: str, inner: nn.Module) -> None:
        forward = inner.forward

        def run(*args, **kwargs):
            out = forward(*args, **kwargs)
            passes.forward[name] += len(args[0])
            if isinstance(out, Tensor) and out.requires_grad:
                out.register_hook(lambda grad: passes.backward.update({name: len(grad)}))
            return out

        inner.__dict__["forward"] = run

    for name, inner in module.named_modules():
        if name:
            wrap(name, inner)
    try:
        with _Masks(passes.masks):
            yield passes
    finally:
        for name, inner in module.named_modules():
            if name:
                del inner.__dict__["forward"]


class _Masks(TorchDispatchMode):
    """Notes which of (input, weight, bias) each backward kernel computed gradients for."""

    def __init__(self, masks: list) -> None:
        super().__init__()
        self.masks = masks

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.name().removeprefix("aten::")
        if name in MASKED:
            self.masks.append((name, list(args[MASKED[name]])))
        return func(*args, **(kwargs or {}))
