"""For each check of methods, bad methods that it must catch; and a good one that passes them all."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import toys
from torch import Tensor

from seewhy.checks import METHOD_CHECKS, ContractError, check_method
from seewhy.core.cards import Capability, Cost, Passes
from seewhy.errors import TargetError
from seewhy.methods import METHODS
from seewhy.methods.base import Method, gradient, input_gradient, make_generator, method, option
from seewhy.models.instrument.hooks import collecting, hooked
from seewhy.models.structure import Layer
from seewhy.targets import ClassTarget, Target, as_target

CHECKS = dict(METHOD_CHECKS)
CARD = {
    "title": "Saboteur",
    "summary": "What each pixel adds to the score.",
    "needs": {Capability.GRADIENTS},
    "signed": True,
    "class_specific": True,
    "citation": "none",
    "cost": lambda self: Cost.whole(1, 1),
}
CUT = Cost.split(below=Passes(1), above=Passes(1, 1))
CASES: list[tuple[str, type[Method], str]] = []


def sabotages(check: str, says: str, **card: Any) -> Callable[[type], type]:
    """A method that is in no registry, and that `check` must find out with a message that has the words `says`."""

    def enter(cls: type) -> type:
        cls.__doc__ = cls.__doc__ or "Bad."
        made = method(register=False, **{**CARD, "name": cls.__name__.lower(), **card})(cls)
        CASES.append((check, made, says))
        return made

    return enter


@method(register=False, **CARD, name="honest")
class Honest(Method):
    """M_ij = Σ_c x_cij ∂f/∂x_cij."""

    def compute(self, x: Tensor, target: Target) -> Tensor:
        return (x * input_gradient(self.model, x, target)).sum(1)


class Unguarded(Honest):
    """Without what the base class does around `maps`."""

    def __call__(self, x, target=None, image_index=None):
        x = x.detach().requires_grad_()
        score = as_target(target).score(self.model.run(x))
        return (x * torch.autograd.grad(score.sum(), x)[0]).sum(1).detach()


# ── the maps ──────────────────────────────────────────────────────────────────────────────────────────────────────────
@sabotages("check_grid_and_dtype", r"the grid is \(48, 32\), not \(32, 48\)")
class SwapsRowsAndCols(Honest):
    def compute(self, x, target):
        return super().compute(x, target).mT


@sabotages("check_grid_and_dtype", "float64")
class ReturnsDouble(Honest):
    def __call__(self, x, target=None):
        return super().__call__(x, target).double()


@sabotages("check_map_independent_of_batch", "one by one")
class NormalizesOverTheBatch(Honest):
    def compute(self, x, target):
        maps = super().compute(x, target)
        return maps / maps.abs().max()


@sabotages("check_map_independent_of_batch", "in another order")
class KnowsItsPlace(Honest):
    def compute(self, x, target):
        moved = len(x) == 3 and target._target.index == (1, 2, 0)
        return super().compute(x, target) * (2 if moved else 1)


@sabotages("check_target_per_image", "its own target")
class UsesTheFirstTarget(Honest):
    def compute(self, x, target):
        return super().compute(x, target.at([0] * len(x)))


@sabotages("check_default_target", "the model's answer")
class DefaultsToClassZero(Honest):
    def _resolve_target(self, target, batch):
        return super()._resolve_target(0 if target is None else target, batch)


@sabotages("check_default_target", "remove scores_once = True")
class ScoresVariantsOfAnUnsettledTarget(Honest):
    scores_once = True

    def compute(self, x, target):
        return super().compute(x, target) + super().compute(x.flip(-1), target)


@sabotages("check_class_specificity", "another target gives the same map")
class IgnoresTheTarget(Honest):
    def compute(self, x, target):
        return super().compute(x, ClassTarget((0,)))


@sabotages("check_class_specificity", "another target gives another map", class_specific=False)
class SecretlyClassSpecific(Honest):
    def _resolve_target(self, target, batch):
        return as_target(target)


@sabotages("check_sign", "unsigned, but", signed=False)
class SecretlySigned(Honest):
    pass


@sabotages("check_sign", "signed, but")
class SecretlyUnsigned(Honest):
    def compute(self, x, target):
        return super().compute(x, target).abs()


@sabotages("check_constant_image", "NonFiniteError")
class DividesByTheRange(Honest):
    def compute(self, x, target):
        return super().compute(x, target) / (x.amax((1, 2, 3)) - x.amin((1, 2, 3)))[:, None, None]


@sabotages("check_dependence_on_weights", "does not depend on the model")
class DetectsEdges(Honest):
    def compute(self, x, target):
        target.score(self.model.run(x))
        return x.diff(dim=-1, append=x[..., -1:]).sum(1)


@sabotages("check_nan_weights", "no NonFiniteError", class_specific=False, needs={Capability.FEATURES})
class HidesNaN(Method):
    def compute(self, x, target):
        return self.model.activations(x, [self.model.layer()])[self.model.layer().name].mean(1).nan_to_num()


@sabotages("check_method_seed", "global random state")
class DrawsFromTheGlobalState(Honest):
    def compute(self, x, target):
        return super().compute(x + 0.1 * torch.randn_like(x), target)


@sabotages("check_method_seed", "not stochastic, but the method has an option")
class DeclaresNoNoise(Honest):
    seed: int = option(default=0, help="seed of the noise")


@sabotages("check_method_seed", "another seed gives the same map", stochastic=True)
class IgnoresTheSeed(Honest):
    seed: int = option(default=0, help="seed of the noise")

    def compute(self, x, target):
        return super().compute(x + 0.1 * torch.randn(x.shape, generator=make_generator(0, x.device)), target)


@sabotages("check_batch_size_invariance", "batch_size changes the map")
class AveragesChunks(Honest):
    batch_size: int = option(default=16, help="images per pass", at_least=1)

    def compute(self, x, target):
        return super().compute(x, target) / -(-25 // self.batch_size)


@sabotages("check_grad_modes", "RuntimeError")
class TrustsTheGradMode(Unguarded):
    pass


@sabotages("check_grad_modes", "drags a graph")
class KeepsTheGraph(Honest):
    def __call__(self, x, target=None):
        return super().__call__(x, target) * next(self.model.module.parameters()).sum()


@sabotages("check_grad_modes", "cannot take part in autograd")
class GivesInferenceTensors(Honest):
    def __call__(self, x, target=None, image_index=None):
        return super().__call__(x, target, image_index) * 1


@sabotages("check_inference_weights", "RuntimeError", needs={Capability.FEATURES})
class HidesThatItDifferentiates(Honest):
    pass


@sabotages("check_inference_weights", "raises no RequirementError")
class ServesWhatItCannot(Honest):
    @classmethod
    def why_incompatible(cls, model):
        return ""


@sabotages("check_image_index", "which other targets")
class TakesTheFirstTargetOfAnImage(Honest):
    def __call__(self, x, target=None, image_index=None):
        if image_index is None:
            return super().__call__(x, target)
        return super().__call__(x, target.at([0, 1]))[list(image_index)]


@sabotages("check_image_index", "runs more often", needs={Capability.FEATURES}, signed=False)
class RunsForEachTarget(Method):
    def __call__(self, x, target=None, image_index=None):
        return super().__call__(x if image_index is None else x[list(image_index)], target)

    def compute(self, x, target):
        features = self.model.activations(x, [self.model.layer()])[self.model.layer().name]
        return features.mean(1) * target.score(self.model.run(x)).abs()[:, None, None]


@sabotages("check_autocast", "not torch.float32")
class GivesHalf(Honest):
    def __call__(self, x, target=None):
        maps = super().__call__(x, target)
        return maps.bfloat16() if torch.is_autocast_enabled("cpu") else maps


@sabotages("check_autocast", "correlates")
class LosesPrecision(Honest):
    def compute(self, x, target):
        maps = super().compute(x, target)
        return (maps + 1e4).to(torch.get_autocast_dtype("cpu")) - 1e4 if torch.is_autocast_enabled("cpu") else maps


@sabotages("check_input_forms", "channels-last")
class ReadsRawMemory(Honest):
    def compute(self, x, target):
        return super().compute(x.as_strided(x.shape, torch.empty(x.shape).stride()), target)


@sabotages("check_input_forms", "float64 model gives a torch.float64 map")
class KeepsTheModelsType(Honest):
    def __call__(self, x, target=None):
        return super().__call__(x, target).to(self.model.dtype)


# ── leaving things as they came ───────────────────────────────────────────────────────────────────────────────────────
def first(module):
    return next(module.parameters())


LITTER: dict[str, Callable[[Any], Any]] = {
    "forward_hooks of the model": lambda m: m.register_forward_hook(lambda *_: None),
    "forward_pre_hooks of stage1": lambda m: m.stage1.register_forward_pre_hook(lambda *_: None),
    "backward_hooks of stage2": lambda m: m.stage2.register_full_backward_hook(lambda *_: None),
    "the hooks of parameter stage1.0.weight": lambda m: first(m).register_hook(lambda g: g),
    "training of": lambda m: m.eval(),
    "requires_grad of parameter": lambda m: m.requires_grad_(False),
    "the gradient of parameter": lambda m: setattr(first(m), "grad", torch.zeros_like(first(m))),
    "the values of parameter": lambda m: first(m).data.mul_(1.0001),
    "parameters of stage1.0": lambda m: setattr(m.stage1[0], "weight", torch.nn.Parameter(first(m).detach().clone())),
    "the values of buffer": lambda m: m.stage1[1].running_mean.add_(1),
    "forward of stage2": lambda m: setattr(m.stage2, "forward", m.stage2.forward),
    "cache of head": lambda m: setattr(m.head, "cache", None),
    "inplace of stage1.2": lambda m: setattr(m.stage1[2], "inplace", False),
    "torch's random state": lambda m: torch.rand(1),
    "grad mode": lambda m: torch.set_grad_enabled(False),
    "a function of torch.nn.functional": lambda m: setattr(F, "gelu", lambda x: x),
    "a function of ReLU": lambda m: setattr(torch.nn.ReLU, "forward", lambda self, x: x),
}

for _words, _throw in LITTER.items():

    @sabotages("check_method_leaves_model_untouched", _words)
    class Litters(Honest):
        throw = staticmethod(_throw)

        def __call__(self, x, target=None):
            maps = super().__call__(x, target)
            self.throw(self.model.module)
            return maps


@sabotages("check_untouched_after_bad_target", "after a class out of range, forward_hooks")
class CleansUpOnSuccessOnly(Honest):
    def __call__(self, x, target=None):
        handle = self.model.module.register_forward_hook(lambda *_: None)
        maps = super().__call__(x, target)
        handle.remove()
        return maps


@sabotages("check_untouched_after_bad_target", "raises no TargetError")
class MakesDo(Honest):
    def _resolve_target(self, target, batch):
        try:
            return super()._resolve_target(target, batch)
        except TargetError:
            return ClassTarget((0,))


@sabotages("check_untouched_after_exception", "after an exception in stage1.0, forward_pre_hooks")
class CleansUpLast(Honest):
    def compute(self, x, target):
        handle = self.model.module.head.register_forward_pre_hook(lambda *_: None)
        maps = super().compute(x, target)
        handle.remove()
        return maps


@sabotages("check_untouched_after_exception", "is swallowed")
class SwallowsErrors(Honest):
    def compute(self, x, target):
        try:
            return super().compute(x, target)
        except Exception:
            return torch.zeros(len(x), *x.shape[-2:])


@sabotages("check_batch_untouched", "requires_grad of the batch")
class LeavesTheInputWantingGradients(Honest):
    def compute(self, x, target):
        with torch.enable_grad():
            score = target.score(self.model.run(x.requires_grad_()))
        return (x.detach() * gradient(score, x)).sum(1)


@sabotages("check_batch_untouched", "the batch is not")
class WritesToTheInput(Honest):
    def compute(self, x, target):
        return super().compute(x.mul_(1), target)


@sabotages("check_training_mode", "training mode")
class RunsInTrainingMode(Unguarded):
    pass


@sabotages("check_frozen_model", "RuntimeError")
class NeedsTrainableWeights(Honest):
    def compute(self, x, target):
        with torch.enable_grad():
            score = target.score(self.model.run(x)).sum()
        torch.autograd.grad(score, first(self.model.module))
        return super().compute(x, target)


# ── the card ──────────────────────────────────────────────────────────────────────────────────────────────────────────
@sabotages("check_capabilities_first", "before gradients is found missing")
class RunsBeforeItChecks(Honest):
    def __post_init__(self):
        self.model.run(torch.zeros(1, 3, 32, 48))
        super().__post_init__()


@sabotages("check_capabilities_first", "runs the model already")
class RunsWhenMade(Honest):
    def setup(self):
        self.model.run(torch.zeros(1, 3, 32, 48))


@sabotages("check_capabilities_first", "raises no RequirementError")
class ChecksNothing(Honest):
    @classmethod
    def why_incompatible(cls, model):
        return ""


@sabotages("check_cost", "2 forward passes through stage1.0")
class RunsTwice(Honest):
    def compute(self, x, target):
        self.model.run(x)
        return super().compute(x, target)


@sabotages("check_cost", "1 backward passes .* the cost says 0", cost=lambda self: Cost.whole(1))
class DeclaresNoBackward(Honest):
    pass


@sabotages(
    "check_cost",
    "4 forward passes .* the cost says 3",
    cost=lambda self: Cost.whole(self.n_samples, self.n_samples),
)
class RunsOnceMore(Honest):
    n_samples: int = option(default=25, help="passes", at_least=1, repeats=True)

    def compute(self, x, target):
        return sum(super(RunsOnceMore, self).compute(x, target) for _ in range(self.n_samples + 1))


@sabotages("check_cost", "gradients of parameters")
class DifferentiatesTheWeights(Honest):
    def compute(self, x, target):
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            score = target.score(self.model.run(x)).sum()
        return (x * torch.autograd.grad(score, [x, first(self.model.module)])[0]).sum(1).detach()


@sabotages(
    "check_cost",
    "below the layer, runs with gradients",
    cost=lambda self: CUT,
)
class BuildsTheWholeGraph(Method):
    def setup(self):
        self.layer_ = self.model.cam_layer()

    def compute(self, x, target):
        leaf = []

        def cut(_, __, output):
            leaf.append(output.detach().clone().requires_grad_())
            return leaf[0].clone()

        with torch.enable_grad(), hooked(self.model.submodule(self.layer_.name), cut):
            score = target.score(self.model.run(x))
        return (leaf[0].detach() * gradient(score, leaf[0])).sum(1)


@sabotages(
    "check_cost",
    "1 backward passes below the layer; the cost says 0",
    cost=lambda self: CUT,
)
class GoesBackBelow(Honest):
    def setup(self):
        self.layer_ = self.model.cam_layer()


@sabotages(
    "check_cost",
    "1 forward passes through head, above the layer; the cost says 0",
    cost=lambda self: Cost.split(below=Passes(1), above=Passes(0)),
    needs={Capability.FEATURES},
    class_specific=False,
    signed=False,
)
class DoesNotStop(Method):
    def setup(self):
        self.layer_ = self.model.layer()

    def compute(self, x, target):
        with collecting({"at": self.model.submodule(self.layer_.name)}, stop=False) as found:
            self.model.run(x)
        return found["at"].mean(1)


@sabotages("check_option_values", "no OptionError")
class TakesAnything(Honest):
    n_steps: int = option(default=5, help="steps", at_least=1)

    def __post_init__(self):
        self.setup()


@sabotages("check_option_declarations", "steps is no option")
class HasABareField(Honest):
    steps: int = 3


@sabotages("check_option_declarations", "TypeError")
class CannotBeWrittenDown(Honest):
    @property
    def options(self):
        return {"step": torch.ones(1)}


@sabotages("check_method_card", "full stop", summary="What each pixel adds")
class SaysHalfASentence(Honest):
    pass


@sabotages("check_method_card", "no citation", citation=" ")
class CitesNobody(Honest):
    pass


@pytest.fixture(autouse=True)
def _put_back(monkeypatch):
    """What the worst of them do to the whole process."""
    monkeypatch.setattr(F, "gelu", F.gelu)
    monkeypatch.setattr(torch.nn.ReLU, "forward", torch.nn.ReLU.forward)
    with torch.enable_grad():
        yield


@pytest.mark.parametrize(("check", "cls", "says"), CASES, ids=[f"{c}-{k.__name__}" for c, k, _ in CASES])
def test_saboteur_is_caught(check, cls, says):
    with pytest.raises(ContractError, match=says) as caught:
        CHECKS[check](cls, toys.toy_cnn(), toys.batch(3))
    assert caught.value.check == check
    assert caught.value.subject == cls.card.name
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("model", [toys.toy_cnn(), toys.toy_vit()], ids=["cnn", "vit"])
def test_an_honest_method_passes(model):
    assert check_method(Honest, model) == {}


TRANSFORMER = {**CARD, "needs": {Capability.TOKENS, Capability.GRADIENTS}, "name": "reads_twice"}


class ReadsTheLastBlockTwice(Method):
    """Two gradients of the head alone, from one forward of the embedding and the blocks."""

    def compute(self, x, target):
        tail = self.model.tail(x, Layer(self.model.structure.blocks[-1].name, "tokens"))
        with torch.enable_grad():
            tokens = [tail.value.clone().requires_grad_() for _ in range(2)]
            gradients = [gradient(target.score(tail(each)), each) for each in tokens]
        return self.model.tokens_to_map((tail.value * sum(gradients)).sum(-1), x.shape[-2:])


def test_the_parts_of_a_transformer_are_counted_each():
    once, twice = Passes(1), Passes(2, 2)
    for blocks, head, says in [
        (once, twice, ""),
        (twice, twice, "1 forward passes through blocks.0.norm1, in the blocks; the cost says 2"),
        (once, once, "2 forward passes through norm, in the head; the cost says 1"),
    ]:
        cost = Cost.transformer(embedding=once, blocks=blocks, head=head)
        cls = method(register=False, **{**TRANSFORMER, "cost": lambda self, cost=cost: cost})(
            type("ReadsTwice", (ReadsTheLastBlockTwice,), {"__doc__": "Bad."})
        )
        with pytest.raises(ContractError, match=says) if says else nullcontext():
            CHECKS["check_cost"](cls, toys.toy_vit(pool="mean"), toys.batch(3))


def test_every_check_has_a_saboteur():
    assert {check for check, _, _ in CASES} == set(CHECKS)


def test_no_saboteur_is_registered():
    assert not [cls for cls in METHODS.values() if cls.__module__ == __name__]
