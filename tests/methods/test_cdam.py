"""CDAM, Smooth, Integrated and Concept CDAM against the equations of the paper, on a 4 × 6 grid in float64."""

from __future__ import annotations

import literal
import pytest
import torch
from toys import batch, toy_cnn, toy_vit

from seewhy.errors import OptionError, RequirementError, TargetError
from seewhy.methods import CDAM, ConceptCDAM, IntegratedCDAM, SmoothCDAM
from seewhy.targets import ClassTarget, Similarity, concept, embedding_sum, reference

VITS = {
    "class token": {},
    "registers": {"prefix": 5},
    "mean of patches": {"prefix": 0, "pool": "mean"},
    "mean beside a class token": {"prefix": 1, "pool": "mean"},
    "one head": {"heads": 1},
    "one block": {"depth": 1},
}
CLASSES = [3, 1]


@pytest.fixture(params=VITS.values(), ids=VITS.keys())
def model(request):
    model = toy_vit(**request.param)
    model.module.double()
    return model


def score(vit, residual, T, targets=CLASSES):
    """f(T), the residual stream fixed: one class for each image."""
    logits = literal.logits(vit, literal.after_norm1(vit.blocks[-1], residual, T))
    return torch.stack([logits[i, c] for i, c in enumerate(targets)])


def times_gradient(f, T, factor):
    """Σ_j factor_ij ∂f/∂T_ij for each image and token."""
    T = T.clone().requires_grad_()
    return (factor * torch.autograd.grad(f(T).sum(), T)[0]).sum(-1)


def grid(model, values):
    return literal.on_grid(values, model.module.prefix, 4, 6)


def test_cdam_is_equation_2(model, x, agree):
    residual, T = literal.last_block(model.module, x)
    want = times_gradient(lambda t: score(model.module, residual, t), T, T)
    agree("CDAM", "literal equation", CDAM(model)(x, CLASSES), grid(model, want))


def test_cdam_is_the_gradient_at_a_hook_on_the_last_norm1(model, x, agree):
    kept = []
    handle = model.module.blocks[-1].norm1.register_forward_hook(lambda _, __, out: kept.append(out))
    logits = model.module(x)
    handle.remove()
    grad = torch.autograd.grad(logits[0, 3] + logits[1, 1], kept[0])[0]
    agree("CDAM", "hook on norm1", CDAM(model)(x, CLASSES), grid(model, (kept[0] * grad).sum(-1)))


def test_cdam_is_the_slope_when_one_token_grows(model, x, agree):
    """Σ_j T_ij ∂f/∂T_ij is the derivative by ε when token i is multiplied by 1 + ε: no autograd involved."""
    residual, T = literal.last_block(model.module, x)
    slopes, step = [], 1e-5
    for token in range(T.shape[1]):
        bump = torch.zeros_like(T)
        bump[:, token] = step * T[:, token]
        rise = score(model.module, residual, T + bump) - score(model.module, residual, T - bump)
        slopes.append(rise / (2 * step))
    agree("CDAM", "finite differences", CDAM(model)(x, CLASSES), grid(model, torch.stack(slopes, 1)), 1e-6)


def test_the_gradient_through_the_residual_stream_is_not_in_it(x):
    """The saboteur's CDAM, which lets the block's input vary, gives another map (with patches pooled by the mean)."""
    model = toy_vit(prefix=0, pool="mean")
    vit = model.module.double()
    inputs = literal.through(vit, literal.embed(vit, x), until=-1)[0].detach().requires_grad_()
    T = literal.layer_norm(vit.blocks[-1].norm1, inputs)
    f = score(vit, inputs, T).sum()
    wrong = (inputs * torch.autograd.grad(f, inputs)[0]).sum(-1)
    assert not torch.allclose(CDAM(model)(x, CLASSES).double(), grid(model, wrong), rtol=0.1)


def at_block_input(vit, z, targets=CLASSES):
    """T' = norm1(z) and ∂f/∂T' for any input z of the last block, the residual stream being z as well."""
    T = literal.layer_norm(vit.blocks[-1].norm1, z).detach().requires_grad_()
    f = score(vit, z, T, targets).sum()
    return T.detach(), torch.autograd.grad(f, T)[0]


def test_smooth_cdam_puts_its_noise_on_the_input_of_the_last_block(model, x, agree):
    """Section 3.3 and the authors' code: σ of the range of that tensor in each image; the residual is noisy, too."""
    z, _ = literal.last_block(model.module, x)
    generator = torch.Generator().manual_seed(7)
    draws = [torch.randn(z.shape[1:], generator=generator).double() for _ in range(6)]
    for unit, sigma in (("range", 0.1), ("absolute", 0.3)):
        want = torch.zeros(z.shape[:2], dtype=z.dtype)
        for i in range(2):
            spread = sigma * (z[i].max() - z[i].min() if unit == "range" else 1)
            for draw in draws:
                T, gradient = at_block_input(model.module, z[i : i + 1] + spread * draw, CLASSES[i : i + 1])
                want[i] += (T * gradient).sum(-1)[0] / 6
        method = SmoothCDAM(model, n_samples=6, sigma=sigma, sigma_unit=unit, seed=7)
        agree("Smooth CDAM", "literal, at the block's input", method(x, CLASSES), grid(model, want))


@pytest.mark.parametrize("start_value", [0.0, 0.5])
def test_integrated_cdam_scales_the_input_of_the_last_block(model, x, start_value, agree):
    """The authors' code: z̃ + k/n (z − z̃) for k = 1 … n − 1, the end left out; T_k − z̃ multiplies the gradient."""
    z, _ = literal.last_block(model.module, x)
    want = torch.zeros(z.shape[:2], dtype=z.dtype)
    for k in range(1, 5):
        T, gradient = at_block_input(model.module, start_value + k / 5 * (z - start_value))
        want += ((T - start_value) * gradient).sum(-1) / 4
    got = IntegratedCDAM(model, n_steps=5, start_value=start_value)(x, CLASSES)
    agree("Integrated CDAM", "literal, at the block's input", got, grid(model, want))


def test_smooth_cdam_at_norm1_is_equation_5(model, x, agree):
    residual, T = literal.last_block(model.module, x)
    generator = torch.Generator().manual_seed(7)
    draws = [torch.randn(T.shape[1:], generator=generator).double() for _ in range(6)]
    for unit, sigma in (("range", 0.1), ("absolute", 0.3)):
        want = torch.zeros(T.shape[:2], dtype=T.dtype)
        for i in range(2):
            spread = sigma * (T[i].max() - T[i].min() if unit == "range" else 1)
            for draw in draws:
                noisy = T.clone()
                noisy[i] += spread * draw
                want[i] += times_gradient(lambda t: score(model.module, residual, t), noisy, noisy)[i] / 6
        method = SmoothCDAM(model, at="norm1", n_samples=6, sigma=sigma, sigma_unit=unit, seed=7)
        agree("Smooth CDAM", "literal equation", method(x, CLASSES), grid(model, want))


@pytest.mark.parametrize("at", ["block_input", "norm1"])
def test_smooth_cdam_without_noise_is_cdam(model, x, at, agree):
    got = SmoothCDAM(model, at=at, n_samples=2, sigma=0)(x, CLASSES)
    agree("Smooth CDAM", "CDAM, σ = 0", got, CDAM(model)(x, CLASSES))


def test_smooth_cdam_repeats_with_its_seed_only(x):
    model = toy_vit()
    first = SmoothCDAM(model, n_samples=3, seed=1)(x.float(), 2)
    torch.rand(3)
    assert torch.equal(first, SmoothCDAM(model, n_samples=3, seed=1)(x.float(), 2))
    assert not torch.allclose(first, SmoothCDAM(model, n_samples=3, seed=2)(x.float(), 2))


@pytest.mark.parametrize("start_value", [0.0, 0.5])
def test_integrated_cdam_at_norm1_is_equation_6_with_right_end_points(model, x, start_value, agree):
    residual, T = literal.last_block(model.module, x)
    want = torch.zeros(T.shape[:2], dtype=T.dtype)
    for k in range(1, 6):
        point = start_value + k / 5 * (T - start_value)
        want += times_gradient(lambda t: score(model.module, residual, t), point, T - start_value) / 5
    got = IntegratedCDAM(model, at="norm1", n_steps=5, start_value=start_value)(x, CLASSES)
    agree("Integrated CDAM", "literal equation", got, grid(model, want))


@pytest.mark.parametrize("start_value", [0.0, 0.5])
def test_integrated_cdam_at_norm1_over_all_tokens_is_the_rise_of_the_score(model, x, start_value, agree):
    """Completeness: f(T) − f(norm1 := start_value, residual kept); right end-points converge as 1/n."""
    residual, T = literal.last_block(model.module, x)
    rise = score(model.module, residual, T) - score(model.module, residual, torch.full_like(T, start_value))
    method = IntegratedCDAM(model, at="norm1", n_steps=1000, start_value=start_value, batch_size=500)
    tokens = method.tokens(x, ClassTarget((3, 1)))
    agree("Integrated CDAM", "completeness, n = 1000", tokens.sum(1), rise, 5e-3)
    coarse = IntegratedCDAM(model, at="norm1", n_steps=40, start_value=start_value).tokens(x, ClassTarget((3, 1)))
    assert (coarse.sum(1) - rise).abs().max() > 5 * (tokens.sum(1) - rise).abs().max()


def test_prefix_tokens_are_dropped_not_shared_out(x):
    model = toy_vit(prefix=5)
    model.module.double()
    everything = IntegratedCDAM(model, n_steps=5).tokens(x, ClassTarget((3, 1))).float()
    maps = IntegratedCDAM(model, n_steps=5)(x, CLASSES)
    torch.testing.assert_close(maps.flatten(1), everything[:, 5:])
    assert everything[:, :5].abs().min() > 0  # so that there was something to share out


@pytest.mark.parametrize("measure", ["dot", "cosine", "l2"])
def test_concept_cdam_is_equations_3_and_4(model, x, measure, agree):
    examples = batch(5, seed=3).double()
    vit = model.module
    mean = (
        torch.stack([literal.embedding(vit, literal.through(vit, literal.embed(vit, e[None]))[0])[0] for e in examples])
        .mean(0)
        .detach()
    )

    def g(T):
        l = literal.embedding(vit, literal.after_norm1(vit.blocks[-1], residual, T))  # noqa: E741 (the paper's name)
        if measure == "dot":
            return (l * mean).sum(-1)
        if measure == "cosine":
            return (l * mean).sum(-1) / (l.square().sum(-1).sqrt() * mean.square().sum().sqrt())
        return -(l - mean).square().sum(-1).sqrt()

    residual, T = literal.last_block(vit, x)
    want = grid(model, times_gradient(g, T, T))
    agree("Concept CDAM", f"literal equation, {measure}", ConceptCDAM(model)(x, Similarity(mean, measure)), want)
    embedded = model.run(examples).embedding.mean(0)
    torch.testing.assert_close(embedded, mean, rtol=1e-9, atol=1e-9)


def test_concept_from_pictures_is_the_mean_of_their_embeddings(tmp_path, cat, coffee):
    model = toy_vit()
    cat.save(tmp_path / "1.png")
    coffee.save(tmp_path / "2.png")
    want = (model.embed(cat)[0] + model.embed(coffee)[0]) / 2
    torch.testing.assert_close(concept(model, tmp_path).vector, want)
    torch.testing.assert_close(concept(model, [cat, coffee]).vector, want)
    maps = ConceptCDAM(model)(batch(), concept(model, tmp_path))
    torch.testing.assert_close(maps, CDAM(model)(batch(), Similarity(want)))


def test_concept_cdam_takes_concepts_only():
    model = toy_vit()
    with pytest.raises(TargetError, match="--concept"):
        ConceptCDAM(model)(batch(), 3)
    with pytest.raises(TargetError, match="--concept"):
        ConceptCDAM(model)(batch(), reference(model, torch.rand(3, 32, 48)))
    CDAM(model)(batch(), embedding_sum())  # CDAM itself takes any


def test_a_model_without_blocks_is_refused_before_any_forward(monkeypatch):
    model = toy_cnn()
    monkeypatch.setattr(model.module, "forward", lambda x: pytest.fail("ran"))
    for cls in (CDAM, SmoothCDAM, IntegratedCDAM, ConceptCDAM):
        with pytest.raises(RequirementError, match=r"last transformer block.*grad_cam"):
            cls(model)


def test_options_that_cannot_work():
    model = toy_vit()
    for cls, options in [
        (SmoothCDAM, {"sigma": -1}),
        (SmoothCDAM, {"n_samples": 0}),
        (IntegratedCDAM, {"n_steps": 0}),
        (IntegratedCDAM, {"n_steps": 1}),
        (IntegratedCDAM, {"at": "norm2"}),
        (SmoothCDAM, {"sigma_unit": "pixels"}),
        (IntegratedCDAM, {"batch_size": 0}),
    ]:
        with pytest.raises(OptionError, match=next(iter(options))):
            cls(model, **options)


@pytest.mark.parametrize("cls", [SmoothCDAM, IntegratedCDAM])
def test_chunks_do_not_change_the_map(cls, x):
    model, n = toy_vit(), "n_steps" if cls is IntegratedCDAM else "n_samples"
    maps = [cls(model, **{n: 7}, batch_size=size)(x.float(), CLASSES) for size in (1, 6, 100)]
    torch.testing.assert_close(maps[0], maps[1], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(maps[0], maps[2], rtol=1e-4, atol=1e-6)
