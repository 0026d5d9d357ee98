"""Every registered metric keeps its contract on a toy; each check catches the bad metrics made for it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
import toys

from seewhy.checks import METRIC_CHECKS, ContractError, check_metric
from seewhy.core.cards import Requirement
from seewhy.methods import Saliency
from seewhy.metrics import METRICS, Measurement, Metric, MetricInputs
from seewhy.metrics.base import metric, option

TOY = toys.toy_cnn()
# imputation is slow, nothing else differs; two sizes of boxes have the area of ten
FEW = {
    "road": {"percentages": (50,)},
    "arcc": {"percentages": (50,)},
    "box_sensitivity": {"sizes": (1, 27)},
    "box_discrimination": {"sizes": (1, 27)},
}
CHECKS = dict(METRIC_CHECKS)


class BrightParts(Saliency):
    """Two clusters for one forward, by brightness: NAVE takes a minute where a metric is asked dozens of times."""

    def segments(self, x):
        self.model.forward_checked(x)
        light = torch.nn.functional.adaptive_avg_pool2d(x.mean(1), 6)
        return (light > light.mean((1, 2), keepdim=True)).long()


@pytest.mark.parametrize(
    "cls",
    [
        pytest.param(cls, id=cls.card.name, marks=pytest.mark.slow if cls.card.name == "arcc" else ())
        for cls in METRICS.values()
    ],
)
def test_metric(cls):
    method = BrightParts if cls.card.name == "cluster_boxes" else None
    skipped = check_metric(cls(**FEW.get(cls.card.name, {})), TOY, method)
    assert (Requirement.MODEL in cls.card.needs) == ("check_exceptions_propagate" not in skipped)


# ── bad metrics ───────────────────────────────────────────────────────────────────────────────────────────────────────
CARD = {
    "title": "Saboteur",
    "property": "localization",
    "summary": "The map is in the mask.",
    "needs": {Requirement.MASK},
    "bounds": (0.0, 1.0),
    "higher_is_better": True,
    "citation": "none",
}
CASES: list[tuple[str, type[Metric], str]] = []


def sabotages(check: str, says: str, **card: Any) -> Callable[[type], type]:
    """A metric in no registry, that `check` must find out with a message that has the words `says`."""

    def enter(cls: type) -> type:
        cls.__doc__ = cls.__doc__ or "Bad."
        made = metric(register=False, **{**CARD, "name": cls.__name__.lower(), **card})(cls)
        CASES.append((check, made, says))
        return made

    return enter


@metric(register=False, **CARD, name="honest")
class Honest(Metric):
    """Σ inside / Σ, of the positive values that count; 0 without any."""

    def score(self, maps, given):
        mass = maps.double().clamp(min=0)
        if given.valid is not None:
            mass = mass * given.valid
        total = mass.sum((1, 2))
        return Measurement((mass * given.masks).sum((1, 2)) / total.where(total > 0, 1))


ASKING = {"needs": {Requirement.MODEL}, "bounds": (None, None), "passes": lambda self: 1, "scale_invariant": False}


@metric(register=False, **{**CARD, **ASKING}, name="asking")
class Asking(Metric):
    """Σ a · f(x)."""

    def score(self, maps, given):
        return Measurement(maps.double().sum((1, 2)) * self.ask(given))

    def ask(self, given):
        return given.target.score(given.model.forward_checked(given.x)).double()


class Unguarded(Honest):
    """Without what the base class does around `score`."""

    def measure(self, maps, given=None, **known):
        return self.score(maps, given or MetricInputs(**known))


@sabotages("check_value_per_map", "not torch.float64")
class IsSingle(Honest):
    def score(self, maps, given):
        return Measurement(super().score(maps, given).value.float())


@sabotages("check_value_per_map", "not \\(batch,\\)")
class GivesTheMean(Honest):
    def score(self, maps, given):
        return Measurement(super().score(maps, given).value.mean()[None])


@sabotages("check_value_per_map", "NaN without a reason")
class GivesNoReason(Honest):
    def score(self, maps, given):
        return Measurement(super().score(maps, given).value * torch.tensor([1, torch.nan, 1, 1]))


@sabotages("check_value_per_map", "infinite")
class DividesByZero(Honest):
    def score(self, maps, given):
        return Measurement(1 / (super().score(maps, given).value * 0))


@sabotages("check_value_per_map", "the card says \\['recall'\\]", parts={"recall": True})
class ForgetsItsPart(Honest):
    pass


@sabotages("check_aggregates", "the card says \\['ap'\\]", aggregates={"ap": True})
class ForgetsTheSet(Honest):
    pass


@sabotages("check_aggregates", "one float", aggregates={"total": True})
class GivesATensor(Honest):
    @staticmethod
    def aggregate(values):
        return {"total": values[""].sum()}


@sabotages("check_curves", "come together")
class HasNoAxis(Honest):
    def score(self, maps, given):
        return Measurement(super().score(maps, given).value, {}, {"": maps.flatten(1).double()})


@sabotages("check_curves", "not of the value or a part")
class DrawsUnnamedCurves(Honest):
    def score(self, maps, given):
        return Measurement(super().score(maps, given).value, {}, {"roc": maps.flatten(1).double()})


@sabotages("check_curves", "has the shape")
class HasAShortAxis(Honest):
    axis = property(lambda self: [0.0, 1.0])
    axis_title = property(lambda self: "steps")

    def score(self, maps, given):
        return Measurement(super().score(maps, given).value, {}, {"": maps.flatten(1).double()})


@sabotages("check_bounds", "above 1.0")
class CountsInPercent(Honest):
    def score(self, maps, given):
        return Measurement(100 * super().score(maps, given).value)


@sabotages("check_bounds", "below 0.0")
class LetsNegativeMassCount(Honest):
    def score(self, maps, given):
        return Measurement((maps.double() * given.masks).sum((1, 2)) / maps.double().abs().sum((1, 2)).clamp(min=1))


@sabotages("check_value_independent_of_batch", "in the batch and")
class NormalizesOverTheBatch(Honest):
    def score(self, maps, given):
        value = super().score(maps, given).value
        return Measurement(value / value.max())


@sabotages("check_value_independent_of_batch", "another order")
class KnowsItsPlace(Honest):
    def score(self, maps, given):
        moved = given.boxes is not None and len(given.boxes) > 1 and len(given.boxes[0]) == 2
        return Measurement(super().score(maps, given).value * (0.5 if moved else 1))


@sabotages("check_nonfinite_map_isolated", "has a value, or no reason")
class TakesNaN(Unguarded):
    def score(self, maps, given):
        return super().score(maps.nan_to_num(), given)


@sabotages("check_nonfinite_map_isolated", "neighbors")
class DropsTheBatchForOneNaN(Honest):
    def measure(self, maps, given=None, **known):
        found = super().measure(maps, given, **known)
        return Measurement(found.value * (0 if found.reasons else 1), {}, {}, found.reasons)


@sabotages("check_missing_truth_isolated", "without the mask of the object has a value")
class CountsAnEmptyMaskAsAHit(Honest):
    def invalid_rows(self, maps, given):
        return {}


@sabotages(
    "check_missing_truth_isolated",
    "without the class .* changes its neighbors",
    needs={Requirement.MASK, Requirement.LABEL},
)
class ShiftsTheLabels(Honest):
    def score(self, maps, given):
        return Measurement(super().score(maps, given).value / (1 + given.labels.sum()))


@sabotages("check_full_mask", "changes the neighbors")
class ComparesMasks(Honest):
    def score(self, maps, given):
        return Measurement(super().score(maps, given).value / given.masks.sum((1, 2)).max())


@sabotages("check_full_mask", "outside of the bounds")
class DividesByTheBackground(Honest):
    def score(self, maps, given):
        share = given.masks.double().mean((1, 2))
        return Measurement(super().score(maps, given).value * (share < 1) + 7.0 * (share == 1))


@sabotages("check_constant_map", "gets the best value")
class CountsAConstantMapAsAHit(Honest):
    def score(self, maps, given):
        top = maps.amax((1, 2), keepdim=True)
        return Measurement(((maps == top) & given.masks).flatten(1).any(1).double())


@sabotages("check_monotone_invariance", "says monotone-invariant, but exp", monotone_invariant=True)
class IsNotMonotone(Honest):
    pass


@sabotages("check_monotone_invariance", "no increasing change")
class HidesThatItIsMonotone(Honest):
    def score(self, maps, given):
        order = maps.flatten(1).argsort(dim=1, stable=True)
        return Measurement(given.masks.flatten(1).gather(1, order)[:, -50:].double().mean(1))


@sabotages("check_scale_invariance", "says scale-invariant, but times 4")
class HasAThreshold(Honest):
    def score(self, maps, given):
        return Measurement(((maps > 1) & given.masks).sum((1, 2)).double() / given.masks.sum((1, 2)))


@sabotages("check_scale_invariance", "no factor", scale_invariant=False)
class HidesThatItHasNoScale(Honest):
    pass


@sabotages("check_direction", "no better", higher_is_better=False)
class PointsTheWrongWay(Honest):
    pass


@sabotages(
    "check_requirements_matter",
    "the class that the image truly shows, but no change",
    needs={Requirement.MASK, Requirement.LABEL},
)
class AsksForNothing(Honest):
    pass


@sabotages("check_invalid_pixels_ignored", "the map where `valid` is false")
class IgnoresValid(Honest):
    def score(self, maps, given):
        given.valid = None
        return super().score(maps, given)


@sabotages("check_invalid_pixels_ignored", "the mask where `valid` is false")
class CountsInvalidMask(Honest):
    def score(self, maps, given):
        return Measurement(super().score(maps, given).value / given.masks.sum((1, 2)))


@sabotages("check_map_forms", "float64, has another value")
class LooksAtTheType(Honest):
    def score(self, maps, given):
        return Measurement(super().score(maps, given).value * maps.element_size() / 8)


@sabotages("check_map_forms", "RuntimeError")
class NeedsContiguousMaps(Honest):
    def score(self, maps, given):
        maps.view(len(maps), -1)
        return super().score(maps, given)


@sabotages("check_metric_seed", "global random state")
class DrawsFromTheGlobalState(Honest):
    def score(self, maps, given):
        return super().score(maps + torch.rand_like(maps), given)


@sabotages("check_metric_seed", "not stochastic, but the metric has an option")
class DeclaresNoDraws(Honest):
    seed: int = option(default=0, help="of the draws")


@sabotages("check_metric_seed", "another seed gives the same", stochastic=True)
class IgnoresTheSeed(Honest):
    seed: int = option(default=0, help="of the draws")


@sabotages("check_inputs_untouched", "the maps")
class WritesToTheMaps(Honest):
    def score(self, maps, given):
        return super().score(maps.clamp_(min=0), given)


@sabotages("check_inputs_untouched", "masks")
class WritesToTheMasks(Honest):
    def score(self, maps, given):
        given.masks[:, 0] = False
        return super().score(maps, given)


@sabotages("check_metric_leaves_state_untouched", "torch's random state")
class AdvancesTheRandomState(Honest):
    def score(self, maps, given):
        torch.rand(1)
        return super().score(maps, given)


@sabotages("check_metric_leaves_state_untouched", "training of", **ASKING)
class LeavesTheModelInEval(Asking):
    def ask(self, given):
        given.model.module.eval()
        return super().ask(given)


@sabotages("check_exceptions_propagate", "is swallowed", **ASKING)
class SwallowsErrors(Asking):
    def ask(self, given):
        try:
            return super().ask(given)
        except Exception:
            return torch.zeros(len(given.x), dtype=torch.float64)


@sabotages("check_exceptions_propagate", "forward_hooks", **ASKING)
class CleansUpOnSuccessOnly(Asking):
    def ask(self, given):
        handle = given.model.module.register_forward_hook(lambda *_: None)
        found = super().ask(given)
        handle.remove()
        return found


@sabotages("check_requirements_first", "AttributeError|NoneType")
class NeedsMoreThanItSays(Honest):
    def score(self, maps, given):
        return Measurement(super().score(maps, given).value * given.labels.ge(0))


@sabotages("check_requirements_first", "raises no OptionError")
class MakesDoWithoutAMask(Unguarded):
    def score(self, maps, given):
        if given.masks is None:
            given.masks = maps > 0
        return super().score(maps, given)


@sabotages("check_passes", "2 forwards per map; the card says 1", **ASKING)
class AsksTwice(Asking):
    def ask(self, given):
        super().ask(given)
        return super().ask(given)


@sabotages("check_passes", "the card says 4", **{**ASKING, "passes": lambda self: self.steps})
class AlwaysAsksThrice(Asking):
    steps: int = option(default=3, help="steps", at_least=1, repeats=True)

    def ask(self, given):
        return sum(super(AlwaysAsksThrice, self).ask(given) for _ in range(3))


@sabotages("check_metric_options", "raises no OptionError")
class TakesAnything(Honest):
    steps: int = option(default=5, help="steps", at_least=1)

    def __post_init__(self):
        pass


@sabotages("check_metric_options", "is no option")
class HasABareField(Honest):
    steps: int = 3


@sabotages("check_metric_card", "full stop", summary="The map is in the mask")
class SaysHalfASentence(Honest):
    pass


@sabotages("check_metric_card", "not in order", bounds=(1.0, 0.0))
class HasItsBoundsReversed(Honest):
    pass


@pytest.mark.parametrize(("check", "cls", "says"), CASES, ids=[f"{c}-{k.__name__}" for c, k, _ in CASES])
def test_saboteur_is_caught(check, cls, says):
    with pytest.raises(ContractError, match=says) as caught:
        CHECKS[check](cls, TOY)
    assert caught.value.check == check
    assert caught.value.subject == cls.card.name
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("cls", [Honest, Asking])
def test_an_honest_metric_passes(cls):
    check_metric(cls, TOY)


def test_every_check_has_a_saboteur():
    assert {check for check, _, _ in CASES} == set(CHECKS)


def test_no_saboteur_is_registered():
    assert not [cls for cls in METRICS.values() if cls.__module__ == __name__]


def test_a_metric_of_a_model_is_checked_without_optional_packages(monkeypatch):
    """Its materials configure no method whose extra may be missing."""
    for name in ("zennit", "sklearn", "torchvision", "timm", "transformers", "open_clip", "ray", "duckdb"):
        for module in [name, *(m for m in sys.modules if m.startswith(f"{name}."))]:
            monkeypatch.setitem(sys.modules, module, None)
    assert "check_exceptions_propagate" not in check_metric(METRICS["deletion"], TOY)
