"""A module that is trained around: some of its parts are replaced for a while, and its own weights are frozen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch import nn

from seewhy.models.instrument.locks import exclusive


@contextmanager
def borrowed(module: nn.Module, replacements: Mapping[str, nn.Module]) -> Iterator[None]:
    """In the block, the module is in eval mode and frozen, with some of its parts replaced.

    Afterwards modes, `requires_grad` and parts are as they were, also after an exception. Other threads that want the
    module wait.

    Args:
        module: The module.
        replacements: By dotted name of the part; a replacement may hold the part itself.
    """
    modes = [(part, part.training) for part in module.modules()]
    wants = [(parameter, parameter.requires_grad) for parameter in module.parameters()]
    places = []
    for name, new in replacements.items():
        parent, _, child = name.rpartition(".")
        places.append((module.get_submodule(parent)._modules, child, module.get_submodule(name), new))
    with exclusive(module):
        try:
            for part, _ in modes:
                part.training = False
            for parameter, wanted in wants:
                if wanted:
                    parameter.requires_grad_(False)
            for table, child, _, new in places:
                table[child] = new
            yield
        finally:
            for table, child, old, _ in places:
                table[child] = old
            for parameter, wanted in wants:
                if wanted:
                    parameter.requires_grad_(True)
            for part, mode in modes:
                part.training = mode
