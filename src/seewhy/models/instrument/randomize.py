"""Copies of a model that lose what they learned, layer by layer from the head down (Adebayo et al. 2018)."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn

from seewhy.errors import OptionError, RequirementError
from seewhy.models.adapter import VisionModel
from seewhy.models.instrument.hooks import untouched
from seewhy.models.instrument.locks import exclusive


def parametrized_modules(model: VisionModel, x: Tensor) -> list[str]:
    """Return the names of the modules that hold parameters of their own, from the head down.

    The last to begin in a forward pass comes first.

    Args:
        model: The model; it is run once and left as it is.
        x: An input of any batch size, preprocessed.

    Raises:
        RequirementError: When there are none.
    """
    order: dict[str, None] = {}

    def record(name: str, *_: object) -> None:
        order.setdefault(name)

    with torch.no_grad(), model.shape_error_context(x), untouched(model.module), ExitStack() as stack:
        for name, module in model.module.named_modules():
            if any(True for _ in module.parameters(recurse=False)):
                stack.callback(module.register_forward_pre_hook(partial(record, name)).remove)
        model.run(x)
    if not order:
        raise RequirementError(f"{model.name} has no weights to randomize; wrap the module itself with seewhy.wrap")
    return list(reversed(order))


def reinitialize(module: nn.Module, seed: int) -> None:
    """Re-initialize a module's own parameters in place: by its `reset_parameters`, else normal with the same spread.

    The global random state is left alone.
    """
    parameters = list(module.parameters(recurse=False))
    devices = {p.device.index for p in parameters if p.device.type == "cuda"}
    with torch.random.fork_rng(devices=sorted(devices)), torch.no_grad():
        torch.manual_seed(seed)
        reset = getattr(module, "reset_parameters", None)
        if reset is not None:
            reset()
            return
        for parameter in parameters:
            parameter.normal_(0, float(parameter.float().std(unbiased=False)) or 1.0)


def layer_groups(names: list[str], steps: int) -> list[list[str]]:
    """Split layers into the head alone, then the others in about equal parts.

    Args:
        names: The layers from the head down.
        steps: How many groups there are at most; fewer where there are fewer layers.

    Raises:
        OptionError: When there would be fewer than two steps.
    """
    if steps < 2:
        raise OptionError(f"steps={steps} is too small; use 2 or more")
    rest, parts = names[1:], min(steps - 1, len(names) - 1)
    edges = [round(i * len(rest) / parts) for i in range(parts + 1)] if parts else []
    return [names[:1], *(rest[a:b] for a, b in pairwise(edges))]


def randomized_models(model: VisionModel, groups: list[list[str]], seed: int) -> Iterator[tuple[str, VisionModel]]:
    """Yield (deepest random layer, model) for each group of layers: one copy, with one more group random each time.

    Args:
        model: The trained model; it stays as it is.
        groups: Names of layers, as `layer_groups` gives them.
        seed: Seed of the first layer's weights; each further layer takes the next number.

    Yields:
        The deepest random layer, and the model.
    """
    randomized = copy.copy(model)
    # parameters made in inference mode could not be differentiated through
    with torch.inference_mode(False), exclusive(model.module):
        randomized.module = copy.deepcopy(model.module)
    number = 0
    for group in groups:
        for name in group:
            reinitialize(randomized.module.get_submodule(name), seed + number)
            number += 1
        yield group[-1] or "input", randomized
