"""Intervals, ranks and verdicts, against literal loops and scipy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import bootstrap

from seewhy.bench import stats


def draw(images: int = 40, columns: int = 3, seed: int = 1):
    random = np.random.default_rng(seed)
    counts = random.integers(0, 4, (images, columns))
    return random.normal(5, 2, (images, columns)) * counts, counts


def test_it_is_the_literal_cluster_bootstrap():
    sums, counts = draw(12, 2)
    found = stats.intervals(sums, counts, resamples=200, seed=3)
    drawn = np.random.default_rng(3).integers(12, size=(200, 12))
    for column in range(2):
        means = [sum(sums[i, column] for i in row) / sum(counts[i, column] for i in row) for row in drawn]
        assert found.mean[column] == pytest.approx(sums[:, column].sum() / counts[:, column].sum())
        assert found.low[column] == pytest.approx(np.quantile(means, 0.025))
        assert found.high[column] == pytest.approx(np.quantile(means, 0.975))


def test_one_map_per_image_is_the_ordinary_bootstrap():
    values = np.random.default_rng(0).gamma(2, size=80)
    found = stats.intervals(values[:, None], np.ones((80, 1), int), resamples=20_000)
    other = bootstrap((values,), np.mean, n_resamples=20_000, method="percentile", rng=0).confidence_interval
    width = other.high - other.low
    assert abs(found.low[0] - other.low) < 0.03 * width
    assert abs(found.high[0] - other.high) < 0.03 * width


def test_maps_of_one_image_do_not_count_as_independent():
    values = np.random.default_rng(0).normal(size=50)
    once = stats.intervals(values[:, None], np.ones((50, 1), int))
    ten_times = stats.intervals(10 * values[:, None], np.full((50, 1), 10))
    assert ten_times.low == pytest.approx(once.low)  # ten copies of each map bring no knowledge
    assert ten_times.high == pytest.approx(once.high)


def test_the_interval_covers_the_truth_as_often_as_it_says():
    random, hits = np.random.default_rng(5), 0
    for trial in range(300):
        shared = random.normal(size=(60, 1))
        values = shared + random.normal(size=(60, 4))  # four maps of each image with something in common
        found = stats.intervals(values.sum(1, keepdims=True), np.full((60, 1), 4), resamples=400, seed=trial)
        hits += found.low[0] <= 0 <= found.high[0]
    assert 0.91 <= hits / 300 <= 0.98  # naive intervals over 240 maps cover about 0.78


def test_p_agrees_with_the_interval_and_an_equal_pair_is_never_significant():
    random = np.random.default_rng(2)
    sums = random.normal(0.25, 1, (60, 40))
    found = stats.intervals(sums, np.ones_like(sums, dtype=int))
    outside = (found.low > 0) | (found.high < 0)
    assert 0 < outside.sum() < 40
    clear = np.abs(found.p - 0.05) > 0.005
    np.testing.assert_array_equal((found.p < 0.05)[clear], outside[clear])
    assert stats.intervals(np.zeros((60, 1)), np.ones((60, 1), int)).p == 1


def test_where_nothing_can_be_said_nothing_is_said():
    counts = np.zeros((30, 4), int)
    counts[:1, 1], counts[:9, 2], counts[:10, 3] = 1, 1, 1
    found = stats.intervals(counts * 2.0, counts)
    np.testing.assert_array_equal(np.isnan(found.mean), [True, False, False, False])
    np.testing.assert_array_equal(np.isnan(found.low), [True, True, False, False])
    np.testing.assert_array_equal(np.isnan(found.p), [True, True, True, False])
    empty = stats.intervals(np.zeros((0, 2)), np.zeros((0, 2), int))
    assert np.isnan(empty.mean).all()
    assert np.isnan(empty.low).all()


def test_blocks_of_resamples_give_what_one_block_gives(monkeypatch):
    sums, counts = draw()
    whole = stats.intervals(sums, counts, resamples=100)
    monkeypatch.setattr(stats, "BLOCK", 40 * 7)
    parts = stats.intervals(sums, counts, resamples=100)
    np.testing.assert_allclose(parts.low, whole.low)


def test_a_bound_of_zero_is_zero():
    """One hit in a hundred: many resamples have none, and 0.01 − 0.01 must not be −7e-18 in a table."""
    hits = np.zeros((100, 1))
    hits[3] = 1
    found = stats.intervals(hits, np.ones((100, 1), int))
    assert found.low[0] == 0
    assert found.high[0] > 0.02


def test_large_means_lose_no_digits():
    sums, counts = draw()
    plain = stats.intervals(sums, counts)
    moved = stats.intervals(sums + 1e9 * counts, counts)
    np.testing.assert_allclose(moved.high - moved.low, plain.high - plain.low, rtol=1e-5)


def test_holm_is_the_textbook_one():
    np.testing.assert_allclose(stats.holm(np.array([0.01, 0.04, 0.03, 0.005])), [0.03, 0.06, 0.06, 0.02])
    found = stats.holm(np.array([0.01, np.nan, 0.9]))
    np.testing.assert_allclose(found[[0, 2]], [0.02, 0.9])
    assert np.isnan(found[1])
    assert len(stats.holm(np.array([]))) == 0


def test_enough_resamples_for_the_correction():
    assert stats.resamples_for(3) == stats.RESAMPLES
    tests = 60
    assert 2 / (stats.resamples_for(tests) + 1) * tests < stats.ALPHA


def test_ranks_share_ties_and_know_the_direction():
    means = np.array([2.0, np.nan, 3.0, 2.0, 1.0])
    assert stats.ranks(means, True) == [2, None, 1, 2, 4]
    assert stats.ranks(means, False) == [2, None, 4, 2, 1]
    assert stats.ranks(means, None) == [None] * 5


def test_bands_are_what_the_bootstrap_tends_to():
    sums, counts = draw(400, 5)
    mean, half = stats.band(sums, counts)
    found = stats.intervals(sums, counts, resamples=5000)
    np.testing.assert_allclose(mean, found.mean)
    np.testing.assert_allclose(half, (found.high - found.low) / 2, rtol=0.08)
