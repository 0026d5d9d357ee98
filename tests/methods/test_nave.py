"""NAVE against its definition written out in loops, and what clusters promise beyond one image."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from sklearn.cluster import AgglomerativeClustering, KMeans
from toys import batch, toy_cnn, toy_vit

from seewhy.core.segmentation import foreground_cluster
from seewhy.errors import ModelError, NonFiniteError, OptionError, RequirementError, UnknownNameError
from seewhy.methods import NAVE
from seewhy.methods.clustering import clusters
from seewhy.methods.clustering.clusters import by_size
from seewhy.methods.clustering.features import layer_weights, positions
from seewhy.models.adapter import VisionModel
from seewhy.models.structure import Layer, Structure


def patterns(n: int = 2) -> torch.Tensor:
    """Images of three flat regions and a little noise, so that the best clustering is not a matter of chance."""
    x = 0.05 * batch(n)
    x[:, 0, :, :24] += 2
    x[:, 1, 8:24, 30:44] += 3
    x[1:, 2, 20:, :10] -= 3
    return x


# ── the definition in loops ───────────────────────────────────────────────────────────────────────────────────────────


def kernel(t: float, a: float = -0.75) -> float:
    """Keys' cubic convolution kernel, with the a that torch uses."""
    t = abs(t)
    if t <= 1:
        return (a + 2) * t**3 - (a + 3) * t**2 + 1
    return a * t**3 - 5 * a * t**2 + 8 * a * t - 4 * a if t < 2 else 0.0


def taps(n_in: int, n_out: int):
    """For each output cell its (input cell, weight) pairs; beyond the edge the last cell repeats."""
    for i in range(n_out):
        center = (i + 0.5) * n_in / n_out - 0.5
        low = math.floor(center)
        yield [(min(max(j, 0), n_in - 1), kernel(center - j)) for j in range(low - 1, low + 3)]


def literal_features(maps: list[torch.Tensor], grid: tuple[int, int]) -> torch.Tensor:
    """One image's (C, rows, cols) maps → (positions, Σ C), cell by cell."""
    first = maps[0].shape[0]
    found = []
    for m in maps:
        unit = torch.zeros_like(m)
        for i, j in itertools.product(*map(range, m.shape[1:])):
            unit[:, i, j] = m[:, i, j] / m[:, i, j].square().sum().sqrt()
        out = torch.zeros(m.shape[0], *grid, dtype=m.dtype)
        for (i, row_taps), (j, col_taps) in itertools.product(
            enumerate(taps(m.shape[1], grid[0])), enumerate(taps(m.shape[2], grid[1]))
        ):
            for (r, u), (c, v) in itertools.product(row_taps, col_taps):
                out[:, i, j] += u * v * unit[:, r, c]
        found.append(out * (1 + first) / (1 + m.shape[0]))
    return torch.cat(found).flatten(1).T


def literal_kmeans(rows: torch.Tensor, k: int, starts: int = 30) -> tuple[torch.Tensor, torch.Tensor]:
    """Lloyd from random starts until nothing moves; the partition with the least squared distances."""
    generator = torch.Generator().manual_seed(3)
    best, least = None, math.inf
    for _ in range(starts):
        centers = rows[torch.randperm(len(rows), generator=generator)[:k]]
        while True:
            labels = torch.cdist(rows, centers).argmin(1)
            moved = torch.stack([rows[labels == c].mean(0) if (labels == c).any() else centers[c] for c in range(k)])
            if torch.allclose(moved, centers, atol=1e-12):
                break
            centers = moved
        inertia = sum((rows[labels == c] - centers[c]).square().sum().item() for c in range(k))
        if inertia < least - 1e-9:
            best, least = (labels, centers), inertia
    return best


def same_partition(a, b) -> bool:
    a, b = (np.asarray(t).ravel() for t in (a, b))
    return len(set(zip(a.tolist(), b.tolist(), strict=True))) == len(set(a.tolist())) == len(set(b.tolist()))


def layer_maps(model, x, names):
    return [model.activations(x, [model.layer(n)])[n] for n in names]


def test_features_against_loops(agree):
    cnn, x = toy_cnn(), patterns()
    cnn.module.double()
    maps = [m + 0.1 for m in layer_maps(cnn, x.double(), ["stage1", "stage2"])]  # no position is zero
    maps[1] = torch.cat([maps[1], maps[1].flip(1)], 1)  # 16 channels beside 8: weights differ
    for grid in ((16, 24), (5, 7)):
        want = torch.stack([literal_features([m[i] for m in maps], grid) for i in range(2)])
        found = positions(maps, grid, layer_weights([8, 16], "channels"))
        agree("nave", f"loops, features on {grid}", found, want, 2e-6)
        assert found.dtype == torch.float32
        want[..., 8:] *= 17 / 9
        equal = positions(maps, grid, layer_weights([8, 16], "equal"))
        agree("nave", f"loops, equal weights, on {grid}", equal, want, 2e-6)


@pytest.mark.parametrize("make", [toy_cnn, lambda: toy_vit(prefix=5)], ids=["cnn", "vit"])
def test_segments_and_similarities_against_loops(make, agree):
    model, x = make(), patterns()
    names = [stage.name for stage in model.structure.stages]
    nave = NAVE(model, k=3)
    segments, similar = nave.explore(x)
    maps = layer_maps(model, x, names)
    for i in range(2):
        rows = literal_features([m[i].double() for m in maps], tuple(maps[0].shape[-2:])).nan_to_num(0)
        labels, centers = literal_kmeans(rows, 3)
        assert same_partition(segments[i], labels)
        scale = sum(((1 + maps[0].shape[1]) / (1 + m.shape[1])) ** 2 for m in maps)
        want = torch.stack([1 - (rows - c).square().sum(1) / (4 * scale) for c in centers], 1).clamp(0, 1)
        order = [labels[segments[i].flatten() == c][0].item() for c in range(3)]
        agree("nave", "loops, similarity to centroids", similar[i].flatten(1).T, want[:, order], 1e-5)
        sizes = [(segments[i] == c).sum().item() for c in range(3)]
        assert sizes == sorted(sizes, reverse=True)
        assert torch.equal(similar[i].argmax(0), segments[i])


def test_the_map_is_the_similarity_to_the_cluster_in_front():
    model, x = toy_cnn(), patterns()
    segments, similar = NAVE(model, k=3).explore(x)
    front = [foreground_cluster(s) for s in segments]
    assert torch.equal(NAVE(model, k=3)(x), torch.stack([similar[i, c] for i, c in enumerate(front)]))
    assert torch.equal(NAVE(model, k=3, cluster=2)(x), similar[:, 2])


def test_a_made_object_is_found():
    """On a CNN whose features are the colors, the cluster in front is the block in the middle."""
    segments = NAVE(toy_cnn(), k=2, layers=["stage1"]).segments(patterns(1) * 0 + center_block())
    assert foreground_cluster(segments[0]) == segments[0, 8, 12]
    assert segments[0, 8, 12] != segments[0, 1, 1]


def center_block() -> torch.Tensor:
    x = torch.zeros(1, 3, 32, 48)
    x[:, :, 10:22, 16:32] = 2
    return x


# ── layers, grids and numbers of clusters ─────────────────────────────────────────────────────────────────────────────


def test_layers_come_from_shallow_to_deep_whatever_the_order_asked():
    model, x = toy_vit(), patterns()
    default = NAVE(model, k=3).segments(x)
    assert torch.equal(NAVE(model, k=3, layers=["blocks.2", 0, "blocks.1", 0]).segments(x), default)
    assert not torch.equal(NAVE(model, k=3, layers=["blocks.2"]).cluster_maps(x), NAVE(model, k=3).cluster_maps(x))
    mixed = NAVE(model, k=3, layers=["patch_embed", "blocks.1"])  # a convolution and a block
    assert mixed.segments(x).shape == (2, 4, 6)


def test_balance_is_what_weighs_the_layers():
    model, x = toy_cnn(), patterns()
    with torch.no_grad():  # both stages have 8 channels: a third with more, so that the weights differ
        model.module.stage2.append(torch.nn.Conv2d(8, 32, 1))
        model.module.head = torch.nn.Linear(32, 5)
    by_channels, equal = (NAVE(model, k=3, balance=b).cluster_maps(x) for b in ("channels", "equal"))
    maps = layer_maps(model, x, ["stage1", "stage2"])
    for similar, weights in ((by_channels, [1, 9 / 33]), (equal, [1, 1])):
        rows = positions(maps, (16, 24), weights)[0]
        labels = similar[0].argmax(0).flatten()
        center = rows[labels == 0].mean(0)
        want = 1 - (rows - center).square().sum(1) / (4 * sum(w**2 for w in weights))
        torch.testing.assert_close(similar[0, 0].flatten(), want, rtol=0, atol=1e-5)


def test_one_forward_that_stops_at_the_deepest_kept_layer():
    model, ran = toy_vit(), []
    for name, module in model.module.named_modules():
        module.register_forward_hook(lambda *_, name=name: ran.append(name))
    NAVE(model, k=3, layers=["blocks.0", "blocks.1"]).explore(patterns())
    assert ran.count("blocks.0") == ran.count("blocks.1") == 1
    assert not {"blocks.2", "norm", "head"} & set(ran)


def test_size_is_the_grid():
    model, x = toy_cnn(), patterns()
    segments, similar = NAVE(model, k=4, size=(6, 9)).explore(x)
    assert segments.shape == (2, 6, 9)
    assert similar.shape == (2, 4, 6, 9)


def test_k_by_silhouette(monkeypatch):
    """With k=None the K of 3 … 10 that has the best silhouette: the number of clearly different things."""
    from seewhy.methods.clustering import clusters

    generator = torch.Generator().manual_seed(0)
    centers = torch.eye(6)
    rows = centers.repeat_interleave(30, 0) + 0.02 * torch.randn(180, 6, generator=generator)
    settings = clusters.Settings(None, "kmeans", 5, 0)
    labels, found = clusters.cluster(rows.clone(), settings, 1.0, ())
    assert len(found) == 6
    assert same_partition(labels, torch.arange(6).repeat_interleave(30))
    monkeypatch.setattr(clusters, "SILHOUETTE_SAMPLE", 60)
    assert len(clusters.cluster(rows.clone(), settings, 1.0, ())[1]) == 6
    segments, similar = NAVE(toy_cnn(), k=None).explore(patterns())
    assert 3 <= similar.shape[1] <= 10
    assert int(segments.max()) < similar.shape[1]


@pytest.mark.parametrize("algorithm", ["kmeans", "agglomerative"])
def test_against_scikit_learn_on_the_same_features(algorithm):
    model, x = toy_cnn(), patterns(1)
    maps = layer_maps(model, x, ["stage1", "stage2"])
    rows = positions(maps, (16, 24), [1, 1])[0].numpy()
    engine = AgglomerativeClustering(4) if algorithm == "agglomerative" else KMeans(4, n_init=10, random_state=0, tol=0)
    found = NAVE(model, k=4, algorithm=algorithm).segments(x)[0]
    assert same_partition(found, engine.fit(rows.copy()).labels_)


def test_pca_against_an_exact_decomposition(agree):
    model, x = toy_vit(), patterns(1)
    maps = layer_maps(model, x, [stage.name for stage in model.structure.stages])
    rows = positions(maps, (4, 6), [1, 1, 1])[0].double()
    centered = rows - rows.mean(0)
    axes = torch.linalg.svd(centered, full_matrices=False)[2][:3]
    scores = centered @ axes.T
    scores = scores * scores.gather(0, scores.abs().argmax(0, keepdim=True)).sign()  # the largest is positive
    want = 0.5 + scores / scores.abs().amax(0) / 2
    segments, similar = NAVE(model, k=3, algorithm="pca").explore(x)
    agree("nave", "svd, principal components", similar[0].flatten(1).T, want, 1e-4)
    assert torch.equal(similar.argmax(1), segments)


def test_numbering_is_by_size_then_by_place():
    assert by_size(np.array([7, 7, 2, 5, 5, 5, 9, 2])).tolist() == [1, 1, 2, 0, 0, 0, 3, 2]


# ── more than one image ─────────────────────────────────────────────────────────────────────────────────────────────


def test_joint_clusters_mean_the_same_in_every_image(agree):
    """Two images with one thing in common: the same number in both, which clustering alone does not promise."""
    model, x = toy_cnn(), patterns()
    x[1] = x[0].flip(-1) * torch.tensor([1.0, 1, 0.5])[:, None, None]
    joint = NAVE(model, k=4, joint=True)
    segments, similar = joint.explore(x)
    rows = torch.cat(
        [
            literal_features([m[i].double() for m in layer_maps(model, x, ["stage1", "stage2"])], (16, 24)).nan_to_num(
                0
            )
            for i in range(2)
        ]
    )
    assert same_partition(segments, literal_kmeans(rows, 4)[0])
    assert torch.equal(similar.argmax(1), segments)
    assert not torch.equal(joint(x)[:1], joint(x[:1]))  # unlike the default, the batch matters


def test_fit_and_assign_carry_clusters_to_other_images():
    model, x = toy_cnn(), patterns(3)
    joint = NAVE(model, k=3, joint=True)
    clusters = joint.fit(x)
    segments, similar = joint.assign(x, clusters)
    want = joint.explore(x)
    assert torch.equal(segments, want[0])
    assert torch.allclose(similar, want[1], atol=1e-5)
    one, _ = NAVE(model, k=7).assign(x[2:], clusters)  # whatever the method's own k
    assert torch.equal(one[0], segments[2])
    other = NAVE(model, layers=["stage2"])
    with pytest.raises(OptionError, match="same layers"):
        other.assign(x, clusters)


def test_nothing_global_is_drawn_from_and_the_seed_decides():
    model, x = toy_vit(), batch()
    torch.manual_seed(1)
    np.random.seed(1)
    first, state = NAVE(model, n_init=1).segments(x), np.random.get_state()[1].copy()
    torch.manual_seed(2)
    np.random.seed(2)
    assert torch.equal(NAVE(model, n_init=1).segments(x), first)
    np.random.seed(1)
    NAVE(model, n_init=1).segments(x)
    assert (np.random.get_state()[1] == state).all()
    others = [NAVE(model, n_init=1, seed=s).segments(x) for s in range(1, 6)]
    assert any(not torch.equal(o, first) for o in others)


def test_public_methods_take_what_a_call_takes_and_leave_the_model_alone():
    model, x = toy_cnn(), patterns()
    nave = NAVE(model, k=3)
    want = nave.segments(x)
    model.module.train()
    assert torch.equal(nave.segments(x.double().requires_grad_()), want)
    assert all(m.training for m in model.module.modules())
    with torch.inference_mode():
        assert torch.equal(nave.segments(x * 1), want)
        assert not nave.cluster_maps(x).is_inference()


# ── what cannot work ──────────────────────────────────────────────────────────────────────────────────────────────────


def never_runs(model):
    model.module.forward = lambda *_: pytest.fail("a forward ran")
    return model


def test_models_with_one_layer_or_none_are_refused_before_any_forward():
    for stages, words in (((), "feature maps on a grid"), ((Layer("stage2", "nchw"),), "several layers.*has one")):
        model = toy_cnn()
        lone = never_runs(VisionModel(model.module, Structure("toy", stages=stages, head="head"), name="lone"))
        with pytest.raises(RequirementError, match=words) as error:
            NAVE(lone)
        assert "these can: " in str(error.value)
        assert "nave" not in str(error.value).split("these can")[1]


def test_impossible_options_are_refused_before_any_forward():
    model = never_runs(toy_cnn())
    for options, words in (
        ({"k": 1}, "use 2 or more"),
        ({"cluster": 5}, "numbered from 0"),
        ({"size": 7}, "two numbers"),
        ({"size": (0, 3)}, "no cells"),
        ({"size": (2, 2)}, "4 positions"),
        ({"k": None, "size": (1, 2)}, "2 positions"),
        ({"layers": "stage1"}, "not a list of layers"),
        ({"layers": []}, "not a list of layers"),
        ({"algorithm": "dbscan"}, "is not one of"),
    ):
        with pytest.raises(OptionError, match=words):
            NAVE(model, **options)
    with pytest.raises(UnknownNameError):
        NAVE(model, layers=["stage9"])


def test_more_clusters_than_positions():
    with pytest.raises(OptionError, match="k=25 clusters of only 24 positions"):
        NAVE(toy_vit(), k=25).segments(patterns())
    with pytest.raises(OptionError, match="only 24 positions"):
        NAVE(toy_vit(), k=25)(patterns())
    assert NAVE(toy_vit(), k=24).cluster_maps(patterns()).shape == (2, 24, 4, 6)


@pytest.mark.parametrize("algorithm", ["kmeans", "agglomerative", "pca"])
@pytest.mark.parametrize("k", [3, None])
def test_features_that_are_the_same_everywhere_say_nothing_and_say_so(algorithm, k):
    """One cluster, a constant map (which explanations flag), no NaN, and no effect on the other images."""
    model = toy_cnn()
    with torch.no_grad():
        model.module.stage1[0].weight.zero_()  # only biases: the same at every position
        model.module.stage2[0].weight.zero_()
    for joint in (False, True):
        nave = NAVE(model, algorithm=algorithm, k=k, joint=joint)
        segments, similar = nave.explore(patterns())
        assert torch.isfinite(similar).all()
        assert not segments.any()
        maps = nave(patterns())
        assert (maps.amax((1, 2)) - maps.amin((1, 2))).max() < 1e-5


def test_bad_batches():
    nave = NAVE(toy_cnn(), k=3)
    for call in (nave.segments, nave.cluster_maps, nave.fit):
        with pytest.raises(ModelError, match="empty"):
            call(patterns()[:0])
    x = patterns()
    x[1, 0, 5, 5] = torch.nan
    for call in (nave, nave.segments, nave.fit):
        with pytest.raises(NonFiniteError):
            call(x)


def test_agglomerative_clustering_says_what_is_too_much(monkeypatch):
    from seewhy.methods.clustering import clusters

    monkeypatch.setattr(clusters, "MOST_PAIRWISE", 500)
    nave = NAVE(toy_cnn(), k=3, algorithm="agglomerative", joint=True)
    nave.segments(patterns(1))
    with pytest.raises(OptionError, match="768 positions"):
        nave.segments(patterns(2))


@pytest.mark.parametrize("algorithm", ["kmeans", "agglomerative"])
@pytest.mark.parametrize("k", [4, None])
def test_fewer_positions_than_channels_are_clustered_by_their_distances_alone(algorithm, k, monkeypatch):
    """In coordinates from the Gram matrix: every distance is the same, and so are the labels of scikit-learn."""
    centers = torch.randn(6, 300, generator=torch.Generator().manual_seed(3))
    rows = centers.repeat(10, 1) + 0.8 * torch.randn(60, 300, generator=torch.Generator().manual_seed(4))
    turned = clusters.coordinates(rows.numpy())
    assert turned.shape[1] < 60
    apart = [torch.pdist(points.double()) for points in (torch.from_numpy(turned), rows)]
    torch.testing.assert_close(*apart, rtol=1e-9, atol=1e-9)
    settings = clusters.Settings(k, algorithm, 10, 0)
    labels, _ = clusters.cluster(rows, settings, 1.0, ())
    monkeypatch.setattr(clusters, "coordinates", lambda rows: rows)
    want, _ = clusters.cluster(rows, settings, 1.0, ())
    assert torch.equal(labels, want)
