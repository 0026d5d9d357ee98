"""Checks that a metric's card and options are complete, and true: what it needs, what it costs, what it refuses."""

from __future__ import annotations

import json
from collections.abc import Iterator

from seewhy.checks.cards import complaints, options_are_declared, wrong_values
from seewhy.checks.core import ensure, expect
from seewhy.checks.metric_case import FIELDS, MetricCase, forwards, make_metric_case, metric_check
from seewhy.core.cards import REQUIREMENT_TEXT, Requirement
from seewhy.core.options import options_of
from seewhy.errors import OptionError
from seewhy.metrics.base import Metric, MetricInputs


@metric_check
def check_requirements_first(case: MetricCase) -> None:
    """Check that without one of its needs the metric says so before any forward; with nothing else it works."""
    known = case.known
    always = {"model": known.model, "x": known.x, "target": known.target}
    needs = {FIELDS[ask]: getattr(known, FIELDS[ask]) for ask in case.card.needs if ask is not Requirement.MODEL}
    only = {**(always if case.card.needs & {Requirement.MODEL, Requirement.METHOD} else {}), **needs}
    case.metric.measure(case.maps, MetricInputs(**only))
    for ask in sorted(case.card.needs):
        lacking = {**only, **({"model": None} if ask is Requirement.MODEL else {FIELDS[ask]: None})}
        with forwards(known.model) as seen, expect(OptionError, f"no {ask}"):
            try:
                case.metric.measure(case.maps, MetricInputs(**lacking))
            except OptionError as error:
                ensure(
                    REQUIREMENT_TEXT[ask] in str(error),
                    f"the error does not say that {REQUIREMENT_TEXT[ask]} is missing",
                )
                raise
            finally:
                ensure(not seen, f"a forward runs before {ask} is found missing")


@metric_check
def check_passes(case: MetricCase) -> None:
    """Check that the forwards per map, rounded up, are those of the card, for more than one number of repetitions."""
    for few in (3, 4):
        metric = make_metric_case(case.metric, case.known.model, few).metric
        with forwards(case.known.model) as seen:
            case.measure(metric=metric)
        per_map = -(-sum(seen) // len(case.maps))
        ensure(per_map == metric.passes, f"{per_map} forwards per map; the card says {metric.passes}")


@metric_check
def check_metric_options(case: MetricCase) -> None:
    """Check that a value below an option's least or none of its choices is an `OptionError`.

    Every option has a help text, and goes into JSON.
    """
    options_are_declared(case.metric)
    for name, field in options_of(type(case.metric)).items():
        for value in wrong_values(field):
            with expect(OptionError, f"{name}={value!r}"):
                type(case.metric)(**{name: value})
    json.dumps(case.metric.options)


@metric_check
def check_metric_card(case: MetricCase) -> None:
    """Check name, title, property, summary (one sentence), citation and directions, and where the file lies."""
    for complaint in _complaints(case.metric):
        ensure(False, complaint)


def _complaints(metric: Metric) -> Iterator[str]:
    card, cls = metric.card, type(metric)
    yield from complaints(cls, "property", "seewhy.metrics", (*card.parts, *card.aggregates))
    if not card.needs <= set(Requirement):
        yield "a need is not a Requirement"
    directions = (card.higher_is_better, *card.parts.values(), *card.aggregates.values())
    if any(direction not in (True, False, None) for direction in directions):
        yield "a direction is not True, False or None"
    low, high = card.bounds
    if low is not None and high is not None and not low < high:
        yield f"the bounds {card.bounds} are not in order"
