"""Timing that survives a busy machine: each run stands between two forwards, and ratios are taken before medians."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

Run = Callable[[], object]
"""Something to be timed."""


@dataclass(frozen=True)
class Timing:
    """How long a run takes, as a ratio to one forward.

    Attributes:
        seconds: Median of the run.
        ratio: Median of its ratio to the mean of the forwards before and after it.
        low: Lower quartile of the ratio.
        high: Upper quartile of the ratio.
        repeats: How many runs.
    """

    seconds: float
    ratio: float
    low: float
    high: float
    repeats: int


def seconds_of(run: Run, device: torch.device) -> float:
    """Run once; return the processor time on a CPU (what other processes do meanwhile does not count), else seconds.

    Args:
        run: What is timed.
        device: Where it runs; a GPU is synchronized before and after.
    """
    if device.type != "cuda":
        start = time.process_time()
        run()
        return time.process_time() - start
    torch.cuda.synchronize(device)
    start = time.perf_counter()
    run()
    torch.cuda.synchronize(device)
    return time.perf_counter() - start


def timed(runs: dict[str, Run], forward: Run, device: torch.device, repeats: int = 5) -> dict[str, Timing]:
    """Time runs in turn, each between two forwards: what slows the machine down for a while slows down all alike.

    Args:
        runs: What is timed, by name; each runs once more before, untimed.
        forward: One forward of the model.
        device: Where they run.
        repeats: How often each is timed.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    ratios: dict[str, list[float]] = {name: [] for name in runs}
    for run in (forward, *runs.values()):
        run()
    for _ in range(repeats):
        before = seconds_of(forward, device)
        for name, run in runs.items():
            taken = seconds_of(run, device)
            after = seconds_of(forward, device)
            seconds[name].append(taken)
            ratios[name].append(taken / ((before + after) / 2))
            before = after
    return {name: _timing(seconds[name], ratios[name]) for name in runs}


def _timing(seconds: list[float], ratios: list[float]) -> Timing:
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else ratios * 3
    return Timing(statistics.median(seconds), middle, low, high, len(ratios))
