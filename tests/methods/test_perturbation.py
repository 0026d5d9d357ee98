"""Occlusion and RISE against their equations with every pass done on its own, and against captum."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from captum.attr import Occlusion as TheirOcclusion
from skimage.transform import resize
from toys import toy_cnn

from seewhy.errors import OptionError
from seewhy.methods import RISE, Occlusion
from seewhy.methods.baselines import BASELINE_IMAGES, color
from seewhy.methods.perturbation.masks import KINDS, RandomMasks
from seewhy.targets import Custom, Regression, Similarity

CLASSES = [3, 1]


def logits_of(model, x):
    with torch.no_grad():
        return torch.stack([model.module(x)[i, c] for i, c in enumerate(CLASSES)])


# ── occlusion ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("baseline", [*BASELINE_IMAGES, 0.7])
def test_occlusion_covers_one_window_after_the_other(model, x, baseline, agree):
    cover = BASELINE_IMAGES[baseline](model, x) if isinstance(baseline, str) else torch.full_like(x, baseline)
    want = torch.zeros(2, 4, 6, dtype=x.dtype)
    for row in range(4):
        for col in range(6):
            covered = x.clone()
            # windows of 12, 8 apart: they stick out by 2 pixels on each side of their cell
            place = (..., slice(max(0, 8 * row - 2), 8 * row + 10), slice(max(0, 8 * col - 2), 8 * col + 10))
            covered[place] = cover[place]
            want[:, row, col] = logits_of(model, x) - logits_of(model, covered)
    got = Occlusion(model, window=12, stride=8, baseline=baseline)(x, CLASSES)
    agree("Occlusion", "literal equation", got, want)


def test_occlusion_takes_the_baselines_that_paths_take(model, x, agree):
    white = color("white")
    named, made = (Occlusion(model, window=8, baseline=b)(x, CLASSES) for b in ("white", white))
    agree("Occlusion", "color by name and as an object", named, made)
    agree("Occlusion", "color as a tensor", Occlusion(model, window=8, baseline=white(model, x))(x, CLASSES), made)


def captum(model, x, window, stride, pad):
    """Captum's map on an image with `pad` more pixels on each side, which the model does not see."""
    inner = (..., slice(pad, pad + x.shape[-2]), slice(pad, pad + x.shape[-1]))
    cover = F.pad(x.mean((2, 3), keepdim=True).expand_as(x), [pad] * 4)
    attribution = TheirOcclusion(lambda padded: model.module(padded[inner])).attribute(
        F.pad(x, [pad] * 4),
        sliding_window_shapes=(3, window, window),
        strides=(3, stride, stride),
        baselines=cover,
        target=CLASSES,
    )
    return attribution[inner][:, 0]


def test_occlusion_is_captums(model, x, agree):
    with torch.no_grad():
        want = captum(model, x, 8, 8, 0)
    got = Occlusion(model, window=8)(x, CLASSES)
    agree("Occlusion", "captum, window = stride", got.repeat_interleave(8, 1).repeat_interleave(8, 2), want)


def test_overlapping_windows_average_to_captums_on_a_padded_image(model, x, agree):
    """Captum's pixel has the mean over the windows that cover it; ours keeps each window's own value."""
    maps = Occlusion(model, window=8, stride=4)(x, CLASSES).double()
    summed, times = torch.zeros(2, 36, 52).double(), torch.zeros(36, 52)
    for row in range(8):
        for col in range(12):
            place = (..., slice(4 * row, 4 * row + 8), slice(4 * col, 4 * col + 8))
            summed[place] += maps[:, row, col, None, None]
            times[place] += 1
    with torch.no_grad():
        want = captum(model, x, 8, 4, 2)
    agree("Occlusion", "captum, stride = window / 2, padded", (summed / times)[:, 2:34, 2:50], want)


def test_occlusion_divides_any_size_evenly():
    found = []
    model = toy_cnn()
    forward = model.module.forward
    model.module.forward = lambda x: (found.extend(x.clone()), forward(x))[1]
    maps = Occlusion(model, window=5, stride=3, baseline=9.0)(torch.zeros(1, 3, 10, 7), 1)
    assert maps.shape == (1, 4, 3)  # ⌈10 / 3⌉ × ⌈7 / 3⌉
    covered = torch.stack(found[1:])[:, 0] == 9
    assert covered.any(0).all()
    first_and_last = [tuple(c.any(1).nonzero().flatten()[[0, -1]].tolist()) for c in covered[::3]]
    # centered on 1.25, 3.75, 6.25, 8.75, to the pixel below
    assert first_and_last == [(0, 2), (1, 5), (3, 7), (6, 9)]


def test_occlusion_that_cannot_work(x):
    model = toy_cnn()
    with pytest.raises(OptionError, match="black, zero, mean, blur"):
        Occlusion(model, baseline="whte")
    with pytest.raises(OptionError, match="leaves gaps"):
        Occlusion(model, window=4, stride=5)
    with pytest.raises(OptionError, match=r"window=33 is larger than the image \(32×48\)"):
        Occlusion(model, window=33)(x.float(), 1)
    with pytest.raises(OptionError, match="broadcasts to the batch"):
        Occlusion(model, baseline=torch.zeros(4, 4))(x.float(), 1)


# ── masks ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def draws(n, seed, cells, offsets):
    """The grids and offsets of n masks, all at once."""
    generator, found = torch.Generator().manual_seed(seed), []
    for _ in range(n):
        grid = (torch.rand(cells, cells, generator=generator) < 0.5).double()
        found.append((grid, [int(torch.randint(k, (), generator=generator)) for k in offsets]))
    return found


def bilinear(grid, height, width, row, col):
    """The grid at one pixel of its enlargement: between the four nearest cell centers, level beyond the last."""
    cells = len(grid)
    places = []
    for pixel, side in ((row, height), (col, width)):
        at = min(max((pixel + 0.5) * cells / side - 0.5, 0), cells - 1)
        low = min(int(at), cells - 2)
        places.append((low, at - low))
    (r, a), (c, b) = places
    top, bottom = grid[r, c] * (1 - b) + grid[r, c + 1] * b, grid[r + 1, c] * (1 - b) + grid[r + 1, c + 1] * b
    return top * (1 - a) + bottom * a


def rise_mask(grid, offset):
    """A 7 × 7 grid for 32 × 48: cells of 5 × 7 pixels, 8 of them each way, cut at the offset; the authors' call."""
    large = resize(grid.numpy(), (40, 56), order=1, mode="reflect", anti_aliasing=False)
    return torch.from_numpy(large[offset[0] : offset[0] + 32, offset[1] : offset[1] + 48])


def relax_mask(grid, offset):
    def reflected(i, side):
        return -i if i < 0 else 2 * (side - 1) - i if i >= side else i

    rows = [reflected(r + offset[0] - 3, 32) for r in range(32)]
    cols = [reflected(c + offset[1] - 3, 48) for c in range(48)]
    return torch.tensor([[bilinear(grid, 32, 48, r, c) for c in cols] for r in rows])


def nearest_mask(grid, offset):
    return torch.stack([torch.stack([grid[r * 7 // 32, c * 7 // 48] for c in range(48)]) for r in range(32)])


LITERAL = {"rise": (rise_mask, (5, 7)), "relax": (relax_mask, (7, 7)), "nearest": (nearest_mask, (1, 1))}


def stored(kind, n, seed):
    make, offsets = LITERAL[kind]
    return torch.stack([make(*draw) for draw in draws(n, seed, 7, offsets)]).double()


@pytest.mark.parametrize("kind", KINDS)
def test_masks_are_their_definition_pixel_by_pixel(kind, agree):
    like = torch.zeros(1).double()
    masks = RandomMasks(kind, (32, 48), cells=7, p=0.5, seed=4, like=like).next(3)
    agree("masks", kind, masks, stored(kind, 3, 4))


@pytest.mark.parametrize("kind", KINDS)
def test_masks_do_not_depend_on_how_many_are_made_at_a_time(kind):
    runs = []
    for pieces in ([6], [1, 2, 3]):
        masks = RandomMasks(kind, (32, 48), cells=7, p=0.5, seed=4, like=torch.zeros(1))
        runs.append(torch.cat([masks.next(n) for n in pieces]))
    assert torch.equal(*runs)
    assert len(runs[0].unique(dim=0)) == 6


@pytest.mark.parametrize("kind", KINDS)
def test_every_pixel_is_seen_with_the_chance_asked_for(kind):
    masks = RandomMasks(kind, (20, 30), cells=4, p=0.3, seed=0, like=torch.zeros(1)).next(2000)
    assert masks.min() >= 0
    assert masks.max() <= 1 + 1e-6
    # the standard error of a 0/1 pixel is 0.010
    assert (masks.mean(0) - 0.3).abs().max() < 0.045


# ── RISE ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("score", ["probability", "logit"])
def test_rise_is_a_sum_over_stored_masks(model, x, score, agree):
    masks, want = stored("rise", 5, 9), torch.zeros(2, 32, 48).double()
    for image, index in enumerate(CLASSES):
        for mask in masks:
            with torch.no_grad():
                logits = model.module((x[image] * mask)[None])[0]
            f = logits[index] if score == "logit" else logits[index].exp() / logits.exp().sum()
            want[image] += f * mask / (5 * 0.5)
    got = RISE(model, n_masks=5, seed=9, read_out=score, batch_size=3)(x, CLASSES)
    agree("RISE", f"literal equation, {score}", got, want)


def test_rise_scores_what_is_no_class_by_itself(x, agree):
    model, x = toy_cnn(), x.float()
    second = Custom(lambda logits: logits[:, 2])
    for target in (Regression(2), second, [Regression(2), second]):
        agree("RISE", "its logit", RISE(model, n_masks=4)(x, target), RISE(model, n_masks=4, read_out="logit")(x, 2))
    concept = Similarity(torch.linspace(-1, 1, 8))
    agree(
        "RISE", "of a concept", RISE(model, n_masks=4)(x, concept), RISE(model, n_masks=4, read_out="logit")(x, concept)
    )
    # of several targets the classes, and only these, have probabilities
    mixed = RISE(model, n_masks=4)(x, [Regression(2), 2])
    agree("RISE", "mixed targets", mixed[1], RISE(model, n_masks=4)(x, 2)[1])
    agree("RISE", "mixed targets", mixed[0], RISE(model, n_masks=4, read_out="logit")(x, 2)[0])


@pytest.mark.parametrize("score", ["probability", "logit"])
def test_rise_of_a_score_that_no_mask_changes_is_constant(x, score):
    """Else the map would be an image of where the masks happened to lie more often."""
    model, x = toy_cnn(), x.float()
    with torch.no_grad():
        model.module.head.weight[1:] = 0
        if score == "probability":
            model.module.head.weight[0] = 0
    maps = RISE(model, n_masks=5, read_out=score, batch_size=3)(x, [2, 0])
    value = model.module.head.bias[2] if score == "logit" else model.module.head.bias.softmax(0)[2]
    torch.testing.assert_close(maps[0], torch.full_like(maps[0], value.item()))
    assert (maps[1].max() > maps[1].min()) == (score == "logit")  # the neighbor in the batch keeps its map


def test_rise_explains_the_models_own_answer_where_none_is_given(x):
    model = toy_cnn()
    answer = model.module.eval()(x.float()).argmax(1).tolist()
    assert torch.equal(RISE(model, n_masks=4)(x.float()), RISE(model, n_masks=4)(x.float(), answer))
    assert torch.equal(RISE(model, n_masks=4)(x.float(), "top-1"), RISE(model, n_masks=4)(x.float(), answer))


def test_rise_takes_sigmoids_where_classes_do_not_exclude_each_other(x, agree):
    from dataclasses import replace

    model = toy_cnn()
    model.structure = replace(model.structure, multi_label=True)
    sigmoid = RISE(model, n_masks=4, read_out="logit")(x.float(), Custom(lambda logits: logits[:, 2].sigmoid()))
    agree("RISE", "sigmoid", RISE(model, n_masks=4)(x.float(), 2), sigmoid)


def test_a_probability_that_is_none_is_refused():
    for p in (0, -0.1, 1.1):
        with pytest.raises(OptionError, match="is not above 0 and at most 1"):
            RISE(toy_cnn(), p=p)
