"""Snapshots of a model's state, and counters of how often each part of it runs."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from seewhy.checks.core import ensure
from seewhy.core.cards import Passes
from seewhy.models.adapter import VisionModel

State = dict[str, Any]
# set by torch for good as soon as a full backward hook was ever there
_HARMLESS = "_is_full_backward_hook"


class _Bits:
    """The numbers of a tensor, compared bit by bit (NaN equals itself)."""

    def __init__(self, tensor: Tensor) -> None:
        flat = tensor.detach().clone(memory_format=torch.contiguous_format).reshape(-1)
        self.bits, self.shape = flat.view(torch.uint8), tensor.shape

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Bits) and self.shape == other.shape and torch.equal(self.bits, other.bits)

    __hash__ = None  # type: ignore[assignment]


def _same(before: Any, after: Any) -> bool:
    """Tell whether both are one object, the same plain value, or containers of the same objects."""
    if before is after:
        return True
    if type(before) is not type(after):
        return False
    if isinstance(before, dict):
        return before.keys() == after.keys() and all(v is after[k] or _same(v, after[k]) for k, v in before.items())
    if isinstance(before, (list, tuple)):
        return len(before) == len(after) and all(map(_same, before, after))
    return isinstance(before, (bool, int, float, str, bytes, set, frozenset, _Bits)) and before == after


def tensor_state(tensor: Tensor, name: str) -> State:
    """Return everything about a tensor that a method could change by mistake."""
    grad = tensor.grad if tensor.is_leaf else None
    return {
        f"{name} itself": tensor,
        f"the values of {name}": _Bits(tensor),
        f"requires_grad of {name}": tensor.requires_grad,
        f"the gradient of {name}": (grad, None if grad is None else _Bits(grad)),
        f"the hooks of {name}": dict(tensor._backward_hooks or {}),
    }


def model_state(module: nn.Module) -> State:
    """Return hooks, instance attributes (`forward` among them), modes, parameters and buffers of every submodule."""
    state: State = {}
    for name, m in module.named_modules():
        for key, value in vars(m).items():
            if isinstance(value, (dict, list, set)):
                value = value.copy()  # it may change in place
                if not value:
                    continue  # most are empty; what comes in is seen as new
            if key != _HARMLESS:
                state[f"{key.strip('_')} of {name or 'the model'}"] = value
    for name, p in module.named_parameters():
        state |= tensor_state(p, f"parameter {name}")
    for name, b in module.named_buffers():
        state |= tensor_state(b, f"buffer {name}")
    return state


def process_state(module: nn.Module) -> State:
    """Return global random states, torch's switches, and the functions and classes that a patch would replace.

    Not Python's own `random`: run-time type checkers draw from it at every call.
    """
    random_states = {
        "torch's random state": _Bits(torch.get_rng_state()),
        "numpy's random state": numpy_random_state(),
        **{f"the random state of cuda:{i}": _Bits(s) for i, s in enumerate(_cuda_states())},
    }
    kernels = torch.backends.cuda
    switches = {
        "grad mode": torch.is_grad_enabled(),
        "inference mode": torch.is_inference_mode_enabled(),
        "autocast": (torch.is_autocast_enabled("cpu"), torch.is_autocast_enabled("cuda")),
        "the default dtype": torch.get_default_dtype(),
        "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        "the choice of attention kernels": (
            kernels.flash_sdp_enabled(),
            kernels.math_sdp_enabled(),
            kernels.mem_efficient_sdp_enabled(),
        ),
    }
    classes = {c for m in module.modules() for c in type(m).__mro__ if c is not object}
    spaces = {"torch.nn.functional": F, "torch.nn": nn, "torch.Tensor": Tensor, **{c.__qualname__: c for c in classes}}
    patched = {
        f"a function of {name}": {k: v for k, v in vars(space).items() if callable(v)} for name, space in spaces.items()
    }
    everywhere = {
        key: dict(value)
        for key, value in vars(nn.modules.module).items()
        if key.startswith("_global_") and isinstance(value, dict)
    }
    return {**random_states, **switches, **patched, **everywhere}


def numpy_random_state() -> list[Any]:
    """Return NumPy's global random state as values that can be compared."""
    everything = np.random.get_state(legacy=False)
    inner = everything.pop("state")
    return [*everything.values(), *(v.tobytes() if isinstance(v, np.ndarray) else v for v in inner.values())]


def _cuda_states() -> list[Tensor]:
    return torch.cuda.get_rng_state_all() if torch.cuda.is_available() and torch.cuda.is_initialized() else []


def change(before: State, after: State) -> str:
    """Name the first thing that is not as it was; empty if all is."""
    gone = object()
    keys = [*before, *(key for key in after if key not in before)]
    pairs = ((key, before.get(key, gone), after.get(key, gone)) for key in keys)
    changed = [key for key, a, b in pairs if a is not b and not _same(a, b)]
    more = f" (and {len(changed) - 1} more)" if len(changed) > 1 else ""
    return f"{changed[0]}{more}" if changed else ""


class StateSnapshot:
    """Remembers a model and the process, to find what changed."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._before = {**process_state(module), **model_state(module)}

    def ensure_unchanged(self, when: str) -> None:
        """Fail the check if anything is not as it was."""
        what = change(self._before, {**process_state(self._module), **model_state(self._module)})
        ensure(not what, f"{when}, {what} is not what it was")


def clone(model: VisionModel) -> VisionModel:
    """Return a copy to be damaged."""
    return copy.deepcopy(model)


def messy_copy(model: VisionModel) -> VisionModel:
    """Return a copy as users have them: mixed modes, part frozen, gradients filled, own hooks, an own `forward`."""
    model = clone(model)
    modules = list(model.module.modules())
    for i, m in enumerate(modules):
        m.training = i % 3 != 1
    for i, p in enumerate(model.module.parameters()):
        p.requires_grad_(i % 3 != 1)
        p.grad = torch.ones_like(p) if i % 2 else None
    last = modules[-1]
    last.register_forward_hook(lambda *_: None)
    last.register_forward_pre_hook(lambda *_: None)
    last.forward = last.forward  # an instance attribute that hides the class's
    return model


class InjectedError(Exception):
    """Raised in the middle of a model's forward by a `FailureInjector`."""


class FailureInjector:
    """Makes one of several modules raise `InjectedError` at a chosen call; the model is a throw-away."""

    def __init__(self, modules: dict[str, nn.Module]) -> None:
        self.place, self.at_call, self.calls = "", 0, 0
        for name, m in modules.items():
            m.forward = partial(self._run, name, m.forward)

    def arm(self, place: str, at_call: int) -> None:
        """Let the next run fail in `place`, at its `at_call`-th call."""
        self.place, self.at_call, self.calls = place, at_call, 0

    @property
    def triggered(self) -> bool:
        """Whether the call came."""
        return self.calls >= self.at_call

    def _run(self, name: str, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self.calls += name == self.place
        if name == self.place and self.calls == self.at_call:
            raise InjectedError("an exception inside forward")
        return forward(*args, **kwargs)


def leaves(module: nn.Module) -> dict[str, nn.Module]:
    """Return the modules without children, by name."""
    return {name: m for name, m in module.named_modules() if not any(m.children())}


class PassCounter:
    """Counts, for every leaf of a (throw-away) model, the images that go forward and whose gradients come back.

    Counted inside each module's own `forward`, not by hooks: a module that only replays a stored output did not run.

    Attributes:
        forward: Images that went forward, by name of the leaf.
        backward: Images whose gradient came back, by name of the leaf.
        graph: The leaves whose output could be differentiated.
        order: Names in the order in which their calls ended; `layer` is among them.
        parameter_gradients: How often the gradient of a parameter was computed.
    """

    def __init__(self, model: VisionModel, layer: str | None = None) -> None:
        self.reset()
        watched = leaves(model.module)
        if layer is not None:
            watched[layer] = model.submodule(layer)
        for name, module in watched.items():
            module.forward = partial(self._run, name, module.forward)
        for parameter in model.module.parameters():
            if parameter.requires_grad:
                parameter.register_hook(self._count_parameter)

    def reset(self) -> None:
        """Start counting again."""
        self.forward: Counter[str] = Counter()
        self.backward: Counter[str] = Counter()
        self.graph: set[str] = set()
        self.order: list[str] = []
        self.parameter_gradients = 0

    def passes(self, prefix: str) -> Passes:
        """Return the most images through any leaf at or below a dotted name."""
        inside = [name for name in self.forward if name == prefix or name.startswith(f"{prefix}.")]
        return Passes(
            max((self.forward[name] for name in inside), default=0),
            max((self.backward[name] for name in inside), default=0),
        )

    def _count_parameter(self, _: Tensor) -> None:
        self.parameter_gradients += 1

    def _run(self, name: str, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        result = forward(*args, **kwargs)
        first = result[0] if isinstance(result, (tuple, list)) and result else result
        self.order.append(name)
        if isinstance(first, Tensor) and first.ndim:
            self._count(name, first)
        return result

    def _count(self, name: str, output: Tensor) -> None:
        self.forward[name] += len(output)
        if output.requires_grad:
            self.graph.add(name)
            output.register_hook(lambda grad: self.backward.update({name: len(grad)}))


class WeightGradients(TorchDispatchMode):
    """Notes in the block whether a backward kernel computes the gradient of a weight or bias, used or not.

    Attributes:
        computed: How many of them do.
    """

    # where these kernels take which of (input, weight, bias) they shall compute gradients for
    _MASK_ARGUMENT: ClassVar[dict[str, int]] = {
        "convolution_backward": -1,
        "native_layer_norm_backward": -1,
        "native_batch_norm_backward": -1,
    }

    def __init__(self) -> None:
        super().__init__()
        self.computed = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        position = self._MASK_ARGUMENT.get(func.name().removeprefix("aten::"))
        if position is not None:
            _, *of_parameters = args[position]
            self.computed += any(of_parameters)
        return func(*args, **(kwargs or {}))
