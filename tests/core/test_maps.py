"""Mean ranks against scipy's, ties, infinities and every float type included."""

from __future__ import annotations

import pytest
import torch
from scipy.stats import rankdata

from seewhy.core.maps import mean_ranks


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("levels", [1, 3, 40, 10**6])
def test_equal_values_share_the_mean_of_their_ranks(dtype, levels):
    values = torch.randint(0, levels, (4, 37), generator=torch.Generator().manual_seed(levels)).to(dtype)
    values[1, :5], values[2, 3:7] = -torch.inf, torch.inf
    assert mean_ranks(values).tolist() == rankdata(values.double().numpy(), axis=1).tolist()


def test_rows_of_one_and_rows_that_want_gradients():
    assert mean_ranks(torch.tensor([[3.0], [-1.0]])).tolist() == [[1], [1]]
    assert mean_ranks(torch.tensor([[3.0, 1.0, 3.0]], requires_grad=True)).tolist() == [[2.5, 1, 2.5]]
