"""The diagnosis: constructed cases for each line of its table, and models of the made world that are known to be so."""

from __future__ import annotations

import pytest
import torch
import toys

from seewhy import load_model
from seewhy.core.maps import resize_maps
from seewhy.data.scenes import Scenes
from seewhy.errors import OptionError, RequirementError, UnknownNameError
from seewhy.methods import METHODS
from seewhy.metrics import Diagnosis, MetricInputs

SIZE = (32, 48)


def region(top, left, rows=8, cols=8):
    mask = torch.zeros(SIZE, dtype=torch.bool)
    mask[top : top + rows, left : left + cols] = True
    return mask


OBJECT, OTHER, CORNER = region(8, 8), region(8, 32), region(24, 40)


def diagnosed(monkeypatch, active, evidence, answer=2, label=2, objects=None, valid=None, **options):
    """The verdict for one image where the label-free map, the map, and the answer are as said."""
    model, x = toys.toy_cnn(), toys.batch(1)
    monkeypatch.setattr(Diagnosis, "_label_free_maps", lambda *_: active.float()[None])
    given = MetricInputs(
        masks=OBJECT[None], model=model, x=x, target=0, labels=torch.tensor([label]), valid=valid, objects=objects
    )
    logits = torch.zeros(1, 5)
    logits[0, answer] = 1
    given.cache["output"] = type("Said", (), {"require": lambda *_: logits})()
    found = Diagnosis(**options).measure(evidence.float()[None], given)
    verdicts = [name for name in ("right", "blind", "confused") if found.parts[name] == 1]
    assert sum(found.parts[name].item() for name in ("right", "blind", "confused")) == 1
    assert found.value.item() == found.parts["right"].item()
    return verdicts[0], found.parts["background"].item(), found.parts["background_reliant"].item()


def test_every_line_of_the_table(monkeypatch):
    assert diagnosed(monkeypatch, CORNER, OBJECT)[0] == "blind"
    assert diagnosed(monkeypatch, CORNER, CORNER, answer=1)[0] == "blind"
    assert diagnosed(monkeypatch, OBJECT, OBJECT, answer=1)[0] == "confused"
    assert diagnosed(monkeypatch, OBJECT, CORNER)[0] == "confused"
    assert diagnosed(monkeypatch, OBJECT, OBJECT)[0] == "right"


def test_evidence_is_weighed_by_density_and_negative_values_are_none(monkeypatch):
    """A quarter of the evidence on a twenty-fourth of the image: denser on the object than elsewhere."""
    spilled = OBJECT * 8.0 + ~OBJECT * 1.0
    verdict, background, reliant = diagnosed(monkeypatch, OBJECT, spilled)
    assert (verdict, reliant) == ("right", 0)
    assert background == pytest.approx(1472 / (1472 + 8 * 64))
    assert diagnosed(monkeypatch, OBJECT, CORNER * 1.0 - OBJECT * 9.0) == ("confused", 1, 1)
    assert diagnosed(monkeypatch, OBJECT, OBJECT * -1.0) == ("confused", 0, 0)  # no evidence anywhere


def test_another_object_is_no_background_and_does_not_hide_this_one(monkeypatch):
    both = [torch.stack([OBJECT, OTHER])]
    active = OBJECT * 1.0 + OTHER * 2.0
    assert diagnosed(monkeypatch, active, OTHER, objects=both) == ("confused", 0, 0)
    assert diagnosed(monkeypatch, active, OTHER) == ("confused", 1, 1)
    assert diagnosed(monkeypatch, active, OBJECT, objects=both) == ("right", 0, 0)


def test_pixels_that_do_not_count_change_nothing(monkeypatch):
    valid = ~CORNER[None]
    assert diagnosed(monkeypatch, OBJECT, OBJECT * 1.0 + CORNER * 99.0, valid=valid) == ("right", 0, 0)


def test_the_threshold_is_that_of_the_auc(monkeypatch):
    """Four of five background pixels are below the object: AUC 0.8."""
    active = torch.zeros(SIZE)
    background = (~OBJECT).flatten().nonzero().flatten()
    active.view(-1)[background[: round(len(background) / 5)]] = 2
    active[OBJECT] = 1
    auc = 1 - round(len(background) / 5) / len(background)
    assert diagnosed(monkeypatch, active, OBJECT, seen=auc - 1e-6)[0] == "right"
    assert diagnosed(monkeypatch, active, OBJECT, seen=auc + 1e-6)[0] == "blind"


def test_a_mask_without_background_and_an_unknown_class_have_no_verdict():
    model, x = toys.toy_cnn(), toys.batch(3)
    masks = torch.stack([torch.ones(SIZE, dtype=torch.bool), OBJECT, OBJECT])
    found = Diagnosis().measure(
        torch.rand(3, *SIZE), model=model, x=x, target=0, masks=masks, labels=torch.tensor([0, -1, 0])
    )
    assert found.reasons == {0: "the objects leave no background", 1: "the true class is not known"}
    assert found.value.isnan().tolist() == [True, True, False]


def test_the_label_free_map_and_the_answer_are_asked_once_for_all_maps():
    model, x = toys.toy_cnn(), toys.batch(2)
    calls = []
    handle = model.module.register_forward_pre_hook(lambda *_: calls.append(1))
    given = MetricInputs(masks=torch.stack([OBJECT, OBJECT]), model=model, x=x, target=0, labels=torch.tensor([0, 1]))
    for _ in range(3):
        Diagnosis()(torch.rand(2, *SIZE), given)
    handle.remove()
    assert len(calls) == 2


def test_the_label_free_method_is_chosen_by_name_never_silently():
    with pytest.raises(OptionError, match=r"depends on the class; choose from .*lafam"):
        Diagnosis(label_free="grad_cam")
    with pytest.raises(UnknownNameError):
        Diagnosis(label_free="nothing")
    with pytest.raises(OptionError, match="above 1"):
        Diagnosis(seen=1.1)
    given = {
        "x": toys.batch(1),
        "model": toys.toy_cnn(),
        "target": 0,
        "masks": OBJECT[None],
        "labels": torch.tensor([0]),
    }
    with pytest.raises(RequirementError, match=r"choose label_free= from .*lafam"):
        Diagnosis(label_free="attention_map")(torch.rand(1, *SIZE), **given)
    given["model"] = toys.toy_vit()
    assert Diagnosis(label_free="attention_map").measure(torch.rand(1, *SIZE), **given).reasons == {}


def on_scenes(name, split, n, wanted="answer", method="grad_cam"):
    model, scenes = load_model(name), Scenes(split)
    items = [scenes[i] for i in range(n)]
    x = model.preprocess_batch([item.image for item in items])
    labels = torch.tensor([item.labels[0] for item in items])
    target = labels if wanted == "true" else model.forward_checked(x).logits.argmax(1)
    tool = METHODS[method](model)
    found = Diagnosis().measure(
        resize_maps(tool(x, target.tolist()), x.shape[-2:]),
        model=model,
        x=x,
        target=target.tolist(),
        labels=labels,
        masks=torch.stack([torch.from_numpy(item.masks[0]) for item in items]),
        objects=[torch.from_numpy(item.masks) for item in items],
    )
    assert not found.reasons
    return {part: values.mean().item() for part, values in found.parts.items()}


def test_the_cnn_that_knows_shapes_is_right():
    """Of 64: right 1.00, background-reliant 0.00 (both with Grad-CAM and LayerCAM)."""
    found = on_scenes("scenes_cnn", "single", 16)
    assert found["right"] >= 0.9
    assert found["background_reliant"] <= 0.1


def test_the_cnn_that_took_the_short_cut_is_blind_or_confused_and_relies_on_the_background():
    """Of 64: blind 0.75, confused 0.12, background-reliant 0.70, with 0.87 of the evidence on the background."""
    found = on_scenes("scenes_cnn_shortcut", "shortcut", 24)
    assert found["right"] <= 0.25
    assert found["blind"] >= 0.5
    assert found["background_reliant"] >= 0.55
    assert found["background"] >= 0.75


def test_the_cnn_that_never_saw_a_fish_sees_it_and_is_confused():
    """Of 64: confused 1.00, blind 0.00, and the evidence for what it answers is on objects."""
    found = on_scenes("scenes_cnn_absent", "absent", 16)
    assert found["confused"] >= 0.9
    assert found["background_reliant"] <= 0.1
