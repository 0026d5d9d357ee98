"""Take off what training programs wrap round the weights of a model."""

from __future__ import annotations

import argparse
import re
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from seewhy.errors import WeightsError
from seewhy.models.checkpoints.reading import State

CONTAINERS = (
    *("state_dict_ema", "model_ema", "ema_state_dict", "ema"),
    *(
        "classy_state_dict",
        "base_model",
        "teacher",
        "state_dict",
        "model_state_dict",
        "model",
        "trunk",
        "net",
        "module",
    ),
)
"""Under which keys files keep weights, the averaged ones first, as timm reads them."""

SHELLS = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
"""What torch.compile and FSDP put into names, anywhere."""

ROOTS = ("blocks.0.attn.qkv.weight", "layer4.0.conv2.weight")
"""A weight of the last part of each kind of trunk that is recognized by itself."""

PARTNERS = re.compile(r"(^|[._])(encoder_k|momentum\w*|target\w*|student)\.")
"""Second copies of the trunk that training needs, beside the one that is used."""

SELF_SUPERVISED = ("projection", "projector", "predictor", "prototypes", "mask_token", "queue", "decoder")
"""How heads of self-supervised training are named, which explain nothing."""

PROJECTION = "projection_head."
"""How SwAV calls what it compares images by."""


@dataclass(frozen=True)
class Checkpoint:
    """The weights of one model out of a file.

    Attributes:
        state: The weights of the trunk, and of its classifier.
        layout: What they were wrapped in: plain, wrapped, dino, moco, simclr, swav or vissl.
        beside: Weights outside of the trunk, by their names in the file: a classifier of a training program, queues …
        projection: Weights of the projection that SwAV compares images by, by their names inside it.
        about: What the training program wrote beside them: `arch`, `args` (a dict), `timm`.
        notes: What was settled on the way, for people.
    """

    state: State
    layout: str
    beside: State = field(default_factory=dict)
    projection: State = field(default_factory=dict)
    about: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def is_self_supervised(self) -> bool:
        """Whether the layout is that of a program that trains without classes."""
        return self.layout in ("dino", "moco", "simclr", "swav", "vissl")


def unwrap(content: Mapping[str, Any], expected: Collection[str] | None = None) -> Checkpoint:
    """Return the weights of the trunk (and of its classifier, if it was trained), and what they were wrapped in.

    Containers, and prefixes of any depth (Lightning, DataParallel, torch.compile, FSDP, averaged models) are taken off.

    Args:
        content: What a file holds.
        expected: The names of the architecture's weights, if it is known.

    Raises:
        WeightsError: There are no weights in it, or several models that fit as well.
    """
    about = _about(content)
    containers: list[str] = []
    while not any(isinstance(value, Tensor) for value in content.values()):
        key = next((key for key in CONTAINERS if isinstance(content.get(key), Mapping)), None)
        if key is None:
            raise WeightsError(
                f"no weights found under {', '.join(map(str, list(content)[:5]))}; save model.state_dict() alone"
            )
        containers.append(key)
        content = content[key]
    state = _bare({str(key): value for key, value in content.items() if isinstance(value, Tensor)})
    prefix = _trunk(state, expected)
    trunk = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    beside = {key: value for key, value in state.items() if not key.startswith(prefix)}
    layout = _layout(prefix, trunk, beside, containers)
    heads = _heads_of(layout)
    dropped = [key for key in trunk if key.startswith(heads)]
    notes = (f"averaged weights ({containers[0]})",) if containers and "ema" in containers[0] else ()
    beside = {key: value for key, value in beside.items() if not PARTNERS.search(key)}
    projection = {key.removeprefix(PROJECTION): trunk[key] for key in dropped if key.startswith(PROJECTION)}
    trunk = {key: value for key, value in trunk.items() if key not in dropped}
    return Checkpoint(trunk, layout, beside, projection, about, notes)


def _about(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return what timm's training program (and others) write beside the weights."""
    args = content.get("args")
    values = vars(args) if isinstance(args, argparse.Namespace) else args if isinstance(args, Mapping) else {}
    arch = content.get("arch") or values.get("model") or values.get("arch")
    is_timm = "version" in content and "model" in values
    return {"arch": arch if isinstance(arch, str) else None, "args": dict(values), "timm": is_timm}


def _bare(state: State) -> State:
    """Take off what parallel and compiled modules put into all names; `n_averaged` counts an averaged model."""
    state = {key: value for key, value in state.items() if key != "n_averaged"}
    for shell in SHELLS:
        state = {key.replace(shell, ""): value for key, value in state.items()}
    while state and all(key.startswith("module.") for key in state):
        state = {key.removeprefix("module."): value for key, value in state.items()}
    return state


def _trunk(state: State, expected: Collection[str] | None) -> str:
    """Return the prefix under which the trunk's weights are; empty where nothing tells.

    Raises:
        WeightsError: Several models in the file fit equally well.
    """
    prefixes = _fitting(state, expected) if expected else []
    if not prefixes:
        ends = [(key, root) for root in ROOTS for key in state if key == root or key.endswith(f".{root}")]
        prefixes = [key.removesuffix(root) for key, root in ends]
    if len(prefixes) > 1:
        prefixes = [p for p in prefixes if not PARTNERS.search(p)] or prefixes
    if len(prefixes) > 1:  # a teacher or averaged copy is what is used in the end
        prefixes = [p for p in prefixes if re.search(r"teacher|ema|swa", p)] or prefixes
    if len(prefixes) > 1:
        names = ", ".join(f"{p}*" for p in prefixes)
        raise WeightsError(f"there are several models in the file ({names}); save the state_dict() of the one you mean")
    return prefixes[0] if prefixes else ""


def _fitting(state: State, expected: Collection[str]) -> list[str]:
    """Return the prefixes under which most of the expected names are."""
    counts: Counter[str] = Counter()
    for key in state:
        parts = key.split(".")
        for i in range(len(parts)):
            if ".".join(parts[i:]) in expected:
                counts["".join(f"{part}." for part in parts[:i])] += 1
    most = max(counts.values(), default=0)
    return [prefix for prefix, count in counts.items() if count == most and 2 * count > len(expected)]


def _layout(prefix: str, trunk: State, beside: State, containers: Collection[str]) -> str:
    if "teacher" in containers or "teacher" in prefix or "head.last_layer.weight_v" in beside:
        return "dino"
    if prefix.endswith(("encoder_q.", "base_encoder.")):
        return "moco"
    if "_feature_blocks" in prefix:
        return "vissl"
    if any(key.startswith(("projection_head.", "prototypes")) for key in trunk):
        return "swav"
    if "encoder" in prefix and any(key.startswith(("projection", "projector", "predictor")) for key in beside):
        return "simclr"  # lightning-bolts; SimSiam's is the same
    return "wrapped" if prefix or containers else "plain"


def _heads_of(layout: str) -> tuple[str, ...]:
    """Return how the names of a trunk's own heads start that self-supervised training made, or left untrained."""
    if layout in ("moco", "simclr"):
        return ("fc.", "head.", *SELF_SUPERVISED)
    if layout in ("dino", "vissl"):
        return ("head.", *SELF_SUPERVISED)
    return SELF_SUPERVISED if layout == "swav" else ()
