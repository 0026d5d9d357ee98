"""`model` and `x`: a toy in float64 and its batch, unless a file has its own.

`agree`: compare with an oracle and remember how near it was (SEEWHY_ORACLES=1 prints the table at the end).
"""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from toys import batch, toy_cnn, toy_vit

from seewhy.models.adapter import VisionModel


@pytest.fixture(params=[toy_cnn, toy_vit], ids=["cnn", "vit"])
def model(request: pytest.FixtureRequest) -> VisionModel:
    """One toy after the other, in float64."""
    model = request.param()
    model.module.double().eval()
    return model


@pytest.fixture
def x() -> Tensor:
    """Two images for a toy, in float64."""
    return batch().double()


@pytest.fixture
def agree(record_property: Callable[[str, object], None]) -> Callable[..., None]:
    """`agree(method, reference, got, want, tolerance)`: largest difference over the largest value of `want`."""

    def check(method: str, reference: str, got: Tensor, want: Tensor, tolerance: float = 1e-6) -> None:
        got, want = torch.as_tensor(got).detach().double(), torch.as_tensor(want).detach().double()
        assert got.shape == want.shape
        assert want.abs().max() > 0, "an oracle that is zero everywhere shows nothing"
        worst = (got - want).abs().max().item()
        relative = worst / want.abs().max().item()
        record_property("oracle", (method, reference, worst, relative, tolerance))
        assert relative <= tolerance, f"{method} against {reference}: {relative:.2e} > {tolerance:.0e}"

    return check


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The table of oracle differences, the worst of each method and reference."""
    rows: dict[tuple[str, str], tuple[float, float, float]] = {}
    for report in [r for reports in terminalreporter.stats.values() for r in reports if hasattr(r, "user_properties")]:
        for name, value in report.user_properties:
            if name == "oracle" and report.when == "call":
                method, reference, *numbers = value
                old = rows.get((method, reference), (0.0, 0.0, 0.0))
                rows[method, reference] = tuple(map(max, old, numbers))
    if rows and os.environ.get("SEEWHY_ORACLES"):
        terminalreporter.section("oracle differences")
        terminalreporter.write_line("| method | reference | max abs | relative | allowed |\n|---|---|---|---|---|")
        for (method, reference), (worst, relative, tolerance) in sorted(rows.items()):
            terminalreporter.write_line(f"| {method} | {reference} | {worst:.1e} | {relative:.1e} | {tolerance:.0e} |")
