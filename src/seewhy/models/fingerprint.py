"""A digest of weights, by which files that belong to a model recognize it."""

from __future__ import annotations

import hashlib

import torch


def fingerprint(module: torch.nn.Module) -> str:
    """Return a digest of all parameters and buffers: their names, shapes, types and values."""
    digest = hashlib.sha256()
    for name, values in module.state_dict().items():
        if isinstance(values, torch.Tensor):
            digest.update(f"{name} {tuple(values.shape)} {values.dtype}".encode())
            digest.update(values.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]
