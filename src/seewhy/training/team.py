"""Several processes that train one model: each takes its share of a batch, then all average their gradients.

`torchrun --no-python --nproc-per-node 2 seewhy train …` starts such a team; alone, every call here does nothing. On a
busy CPU two processes of one thread are several times faster than one process of two, whose threads wait for each
other at every layer.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

import torch
from torch import Tensor, distributed


class Team:
    """This process's place among those that `torchrun` started.

    Attributes:
        size: Number of processes.
        rank: Number of this process, from 0.
    """

    def __init__(self, device: torch.device) -> None:
        self.size, self.rank = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
        if self.size > 1 and not distributed.is_initialized():
            distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")

    @property
    def leads(self) -> bool:
        """Whether this process is the one that writes files and draws."""
        return self.rank == 0

    def share(self) -> slice:
        """Return the part of a batch that is this process's."""
        return slice(self.rank, None, self.size)

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.size > 1:
            distributed.barrier()

    @torch.no_grad()
    def average(self, tensors: Iterable[Tensor | None]) -> None:
        """Replace each tensor by its mean over the team, in place and in one message."""
        if self.size == 1:
            return
        kept = [t for t in tensors if t is not None and t.is_floating_point()]
        flat = torch.cat([t.flatten().float() for t in kept])
        distributed.all_reduce(flat)
        for tensor, mean in zip(kept, (flat / self.size).split([t.numel() for t in kept]), strict=True):
            tensor.copy_(mean.view_as(tensor))
