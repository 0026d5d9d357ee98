"""RELAX and U-RELAX against their equations over all masks at once, and against the authors' package."""

from __future__ import annotations

import weakref

import pytest
import relax_xai.relax
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from toys import batch, toy_cnn

from seewhy.errors import ModelError, NonFiniteError, OptionError
from seewhy.methods import RELAX, RISE, URELAX
from seewhy.methods.perturbation.masks import RandomMasks
from seewhy.methods.perturbation.relax_base import WeightedMoments, distance

MASKS = ("relax", "nearest")


def all_masks(kind, n, seed=0):
    return RandomMasks(kind, (32, 48), cells=7, p=0.5, seed=seed, like=torch.zeros(1).double()).next(n)


def embedding(model, x):
    with torch.no_grad():
        if hasattr(model.module, "stage2"):
            return model.module.stage2(model.module.stage1(x)).mean((2, 3))
        return model.module.pooled(model.module.blocks(model.module.embed(x)))


def literal(model, x, masks):
    """Every mask and similarity stored; the mean first, then the variance around it."""
    importance, uncertainty = [], []
    for image in x:
        whole = embedding(model, image[None])
        s = torch.cat([F.cosine_similarity(whole, embedding(model, (image * m)[None])) for m in masks])[:, None, None]
        mean = (masks * s).sum(0) / masks.sum(0)
        importance.append(mean)
        uncertainty.append((masks * (s - mean) ** 2).sum(0) / masks.sum(0))
    return torch.stack(importance), torch.stack(uncertainty)


@pytest.mark.parametrize("kind", MASKS)
def test_relax_is_two_passes_over_stored_masks(model, x, kind, agree):
    want = literal(model, x, all_masks(kind, 40, seed=3))
    got = RELAX(model, n_masks=40, masks=kind, seed=3, batch_size=7).both(x)
    agree("RELAX", f"literal importance, {kind}", got[0], want[0])
    agree("RELAX", f"literal uncertainty, {kind}", got[1], want[1])
    around = [m - m.mean() for m in (got[0].double(), want[0])]  # all are near one; what counts is the difference
    agree("RELAX", f"literal importance around its mean, {kind}", *around, 1e-3)


@pytest.mark.parametrize("kind", MASKS)
def test_u_relax_is_the_importance_where_it_is_sure(model, x, kind, agree):
    masks = all_masks(kind, 40)
    importance, uncertainty = literal(model, x, masks)
    want = torch.zeros_like(importance)
    for image in range(2):
        middle = sorted(uncertainty[image].flatten().tolist())[(32 * 48 - 1) // 2]
        for row in range(32):
            for col in range(48):
                if uncertainty[image, row, col] <= middle * 1.0001:  # as unsure up to rounding
                    want[image, row, col] = importance[image, row, col]
    got = URELAX(model, n_masks=40, masks=kind)(x)
    agree("U-RELAX", f"literal equation, {kind}", got, want)
    assert (got > 0).double().mean() == pytest.approx(0.5, abs=0.05)


def test_one_pass_shows_both(x):
    model, x = toy_cnn(), x.float()
    importance, uncertainty = RELAX(model, n_masks=6).both(x)
    assert torch.equal(RELAX(model, n_masks=6)(x), importance)
    assert torch.equal(RELAX(model, n_masks=6, show="uncertainty")(x), uncertainty)
    assert torch.equal(RELAX(model, n_masks=6, show="uncertainty").both(x)[0], importance)
    with pytest.raises(OptionError, match="importance, uncertainty"):
        RELAX(model, show="u_relax")


class Encoder(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return embedding(self.model, x)


def test_relax_is_the_authors_but_for_the_division_that_they_forget(model, x, agree, monkeypatch):
    """Their package with our masks: U is Σ M times ours, so it grows with the number of masks."""
    masks = all_masks("relax", 40)
    monkeypatch.setattr(relax_xai.relax, "mask_generator", lambda n, *_, **__: iter([masks[:, None]]))
    torch.set_default_dtype(torch.float64)
    try:
        theirs = relax_xai.relax.RELAX(
            x[:1], Encoder(model), batch_size=40, num_batches=1, sum_of_weights_initial_value=1e-20
        )
        theirs()
    finally:
        torch.set_default_dtype(torch.float32)
    importance, uncertainty = RELAX(model, n_masks=40).both(x[:1])
    agree("RELAX", "relax-xai importance", importance[0], theirs.importance)
    agree("RELAX", "relax-xai uncertainty / Σ M", uncertainty[0], theirs.uncertainty / masks.sum(0))
    assert (theirs.uncertainty / uncertainty[0]).median() > 15, "it does divide now: compare without Σ M"
    sure = theirs.uncertainty / masks.sum(0)
    clear = (sure / sure.median() - 1).abs() > 2e-4  # of ties, we keep both
    agree(
        "U-RELAX",
        "relax-xai, U divided by Σ M",
        URELAX(model, n_masks=40)(x[:1])[0] * clear,
        theirs.importance * (sure <= sure.median()) * clear,
    )
    # their own U-RELAX, as published: U is not divided
    clear = (theirs.uncertainty / theirs.uncertainty.median() - 1).abs() > 2e-4
    ours = URELAX(model, n_masks=40, uncertainty="sum")(x[:1])[0]
    want = theirs.importance * (theirs.uncertainty <= theirs.uncertainty.median())
    agree("U-RELAX, uncertainty='sum'", "relax-xai", ours * clear, want * clear)


def test_the_relax_masks_are_the_authors(agree):
    """The same grids and offsets through their code: it draws from the global generator, in another order."""
    generator = torch.Generator().manual_seed(5)
    draws = [
        (torch.rand(7, 7, generator=generator), [int(torch.randint(7, (), generator=generator)) for _ in "yx"])
        for _ in range(4)
    ]
    ours = RandomMasks("relax", (32, 48), cells=7, p=0.5, seed=5, like=torch.zeros(1)).next(4)
    answers = iter([torch.stack([g for g, _ in draws])[:, None], *torch.tensor([o for _, o in draws]).T])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "rand", lambda *_, **__: next(answers))
        patch.setattr(torch, "randint", lambda *_, **__: next(answers))
        (theirs,) = relax_xai.relax.mask_generator(4, (32, 48), "cpu")
    agree("masks", "relax-xai", ours, theirs[:, 0])


# ── the streamed sums ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_moments_of_scores_that_hardly_differ():
    """Around 1e4, float32 sums of squares would give a variance of nothing but rounding."""
    generator = torch.Generator().manual_seed(0)
    masks, scores = torch.rand(500, 3, 4, generator=generator), 1e4 + torch.rand(500, 2, generator=generator)
    found = WeightedMoments(2, (3, 4), like=masks)
    for mask, score in zip(masks, scores, strict=True):
        found.add(mask, score)
    mean, variance = found.result()
    weights, s = masks.double()[:, None], scores.double()[..., None, None]
    want = (weights * s).sum(0) / weights.sum(0)
    torch.testing.assert_close(mean.double(), want, rtol=1e-6, atol=0)
    spread = (weights * (s - want) ** 2).sum(0) / weights.sum(0)
    torch.testing.assert_close(variance.double(), spread, rtol=0.02, atol=0)


def test_pixels_that_no_mask_shows_get_the_plain_mean():
    found = WeightedMoments(1, (1, 2), like=torch.zeros(1))
    for score in (1.0, 2.0, 6.0):
        found.add(torch.tensor([[1.0, 0.0]]) if score < 6 else torch.zeros(1, 2), torch.tensor([score]))
    mean, variance = found.result()
    torch.testing.assert_close(mean, torch.tensor([[[1.5, 3.0]]]))
    torch.testing.assert_close(variance, torch.tensor([[[0.25, 14 / 3]]]))


def test_distance_is_one_minus_cosine(agree):
    a, b = torch.randn(50, 16).double(), torch.randn(50, 16).double()
    agree("distance", "1 − cosine", distance(a, b), 1 - F.cosine_similarity(a, b, dim=-1), 1e-12)
    near = a + 1e-4 * b
    agree(
        "distance",
        "1 − cosine in float64, nearly parallel",
        distance(a.float(), near.float()),
        1 - F.cosine_similarity(a, near, dim=-1),
        5e-3,
    )
    zeros = torch.zeros_like(a)
    for pair in ((a, zeros), (zeros, a), (zeros, zeros)):
        assert (distance(*pair) == 1).all()


class LivePeak(TorchDispatchMode):
    """The most bytes that tensors made in the block take up at any time."""

    def __init__(self):
        super().__init__()
        self.live, self.now, self.peak = {}, 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                key = storage.data_ptr()
                if key and key not in self.live:
                    self.live[key] = storage.nbytes()
                    self.now += storage.nbytes()
                    self.peak = max(self.peak, self.now)
                    weakref.finalize(storage, self.gone, key)
        return out

    def gone(self, key):
        self.now -= self.live.pop(key, 0)


def peak(method, x):
    with LivePeak() as memory:
        method(x, 1)
    return memory.peak


@pytest.mark.parametrize("cls", [RELAX, URELAX, RISE])
def test_memory_does_not_grow_with_the_number_of_masks(cls):
    model, x = toy_cnn(), batch(2)
    few, many = (peak(cls(model, n_masks=n, batch_size=8), x) for n in (12, 240))
    larger = peak(cls(model, n_masks=240, batch_size=80), x)
    print(f"{cls.__name__}: {few} bytes for 12 masks, {many} for 240; {larger} with ten times the batch_size")
    assert many <= few * 1.01
    assert larger > 3 * many, "the meter does not see tensors"


# ── what must not happen ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("cls", [RELAX, URELAX])
def test_an_image_of_zeros_is_the_same_under_every_mask(cls):
    assert (cls(toy_cnn(), n_masks=5)(torch.zeros(1, 3, 32, 48)) == 1).all()


def test_both_is_as_careful_as_a_call():
    model = toy_cnn()
    model.module.train()
    with pytest.raises(ModelError, match="empty"):
        RELAX(model, n_masks=3).both(batch()[:0])
    RELAX(model, n_masks=3).both(batch())
    assert model.module.training
    with torch.no_grad():
        model.module.stage2[0].bias.fill_(float("nan"))
    with pytest.raises(NonFiniteError):
        RELAX(model, n_masks=3).both(batch())


def test_images_too_small_to_shift():
    with pytest.raises(OptionError, match="larger than 3 pixels"):
        RELAX(toy_cnn(), n_masks=3)(torch.zeros(1, 3, 3, 8))
    assert RELAX(toy_cnn(), n_masks=3, masks="nearest")(torch.zeros(1, 3, 3, 8)).shape == (1, 3, 8)
