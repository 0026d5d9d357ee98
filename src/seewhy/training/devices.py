"""Fabric for the device, precision and number of processes that were asked for."""

from __future__ import annotations

import os
from typing import Any

import torch

from seewhy.core.io import first_line
from seewhy.errors import OptionError, require

PRECISIONS: dict[str, Any] = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}


def make_fabric(precision: str, device: torch.device | str | None, devices: int) -> tuple[Any, Any]:
    """Return Fabric and the scaler of the loss, which only half precision on a GPU has."""
    lightning = require("lightning_fabric", "train")
    from lightning_fabric.plugins.precision import MixedPrecision
    from lightning_fabric.strategies.ddp import DDPStrategy

    try:
        place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError:
        raise OptionError(f"there is no device {str(device)!r}; use cpu, cuda, cuda:0 or mps") from None
    devices = int(os.environ.get("LOCAL_WORLD_SIZE", devices))  # torchrun's
    if place.type == "cuda" and torch.cuda.device_count() < devices:
        raise OptionError(f"{devices} GPUs are asked for and {torch.cuda.device_count()} are here; use fewer devices")
    options: dict[str, Any] = {"accelerator": place.type, "devices": devices}
    if place.type == "cuda" and place.index is not None and devices == 1:
        options["devices"] = [place.index]
    if int(os.environ.get("WORLD_SIZE", devices)) > 1:
        # parts that an epoch freezes have no gradients, and the others must not wait for them
        options["strategy"] = DDPStrategy(find_unused_parameters=True)
        options["num_nodes"] = max(1, int(os.environ.get("WORLD_SIZE", devices)) // devices)
    scaler = None
    if precision == "16":
        if place.type != "cuda":
            raise OptionError("precision '16' needs a CUDA device; use bf16 or 32")
        scaler = torch.amp.GradScaler("cuda")
    if precision != "32":  # made here, because a checkpoint needs the scaler
        options["plugins"] = [MixedPrecision(PRECISIONS[precision], place.type, scaler)]
    try:
        return lightning.Fabric(**options), scaler
    except Exception as error:  # of its own kind, for each thing that a machine lacks
        raise OptionError(
            f"cannot train on {place.type} with {devices} devices here ({first_line(error)}); use device='cpu'"
        ) from error
