"""The census of architectures: one family of each kind, and under `slow` all of them, as docs/census.md records."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

pytest.importorskip("timm")
pytest.importorskip("transformers")

from models import census, census_families

QUICK = {
    "timm/convnext:ConvNeXt",  # maps
    "timm/vision_transformer:VisionTransformer",  # blocks
    "timm/vision_transformer_relpos:VisionTransformerRelPos",
    "timm/maxxvit:MaxxVit",  # windows
    "transformers/data2vec-vision:Data2VecVisionForImageClassification",  # found by looking, read by its `logits`
    "transformers/clip:CLIPForImageClassification",
}
"""One of each kind, all of them small."""


def examined(family: str) -> census.Outcome:
    (found,) = (each for each in census_families.all_families() if each[0] == family)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return census.examine(*found)


@pytest.mark.parametrize("family", sorted(QUICK))
def test_one_of_each_kind_is_served_rightly(family: str) -> None:
    outcome = examined(family)
    assert outcome.outcome == census.WORKS, outcome.note


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_every_family_is_served_or_refused_with_a_reason(tmp_path: Path) -> None:
    """All of them: about a quarter of an hour of one core."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        census.run(tmp_path / "census.jsonl", "", again=False)
    outcomes = [o for o in census.recorded(tmp_path / "census.jsonl").values() if o.outcome != census.ABSENT]
    assert not [(o.family, o.note) for o in outcomes if o.outcome in (census.WRONG, census.FAILS)]
    assert sum(o.outcome == census.WORKS for o in outcomes) >= 0.95 * len(outcomes)


def test_the_census_notices_a_wrong_map(monkeypatch: pytest.MonkeyPatch) -> None:
    right = census.plain_grad_cam
    monkeypatch.setattr(census, "plain_grad_cam", lambda *args: right(*args).flip(-1))
    outcome = examined("timm/convnext:ConvNeXt")
    assert outcome.outcome == census.WRONG
    assert "differs from plain hooks" in outcome.note


def test_a_record_can_be_resumed_and_printed(tmp_path: Path) -> None:
    record = tmp_path / "census.jsonl"
    census.run(record, "timm/convnext:", again=False)
    census.run(record, "timm/convnext:", again=False)
    assert len(record.read_text(encoding="utf-8").splitlines()) == 1
    lines = list(census.table(record))
    assert lines[0] == "**1 families: 1 works, 0 refused, 0 wrong, 0 fails; 100.0 % served (0 more absent).**"
    assert "minutes of one core" in lines[2]
    assert "timm 1" in lines[2]
    assert "| convnext:ConvNeXt | test_convnext | works |" in lines[-1]


def test_a_family_that_takes_too_long_fails_whatever_catches_exceptions() -> None:
    def make() -> None:
        try:
            raise census.TookTooLong
        except Exception:
            pytest.fail("caught")

    outcome = census.examine("timm/none", "none", make)
    assert (outcome.outcome, outcome.note) == (census.FAILS, f"more than {census.LIMIT_S} s")
