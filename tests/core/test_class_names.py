"""Class names: ImageNet's as libraries spell them."""

from __future__ import annotations

import re

import pytest

from seewhy.core.class_names import find_class, is_imagenet
from seewhy.core.imagenet import imagenet_classes, imagenet_wnids
from seewhy.errors import TargetError, UnknownNameError

DIFFERENT = {134: "crane bird", 517: "crane", 638: "maillot", 639: "maillot tank suit"}
"""Where torchvision's names are not ours; `models/test_torchvision.py` compares."""
TORCHVISION = tuple(DIFFERENT.get(i, name) for i, name in enumerate(imagenet_classes()))


@pytest.mark.parametrize("names", [imagenet_classes(), TORCHVISION], ids=["seewhy", "torchvision"])
def test_every_name_of_ours_finds_its_class_in_either_list(names):
    assert [find_class(name, names) for name in imagenet_classes()] == list(range(1000))
    assert [find_class(name, names) for name in imagenet_wnids()[::100]] == list(range(0, 1000, 100))


def test_torchvision_s_names_find_their_classes_in_ours_or_are_asked_about():
    assert [find_class(name, TORCHVISION) for name in TORCHVISION] == list(range(1000))
    assert [find_class(DIFFERENT[i], imagenet_classes()) for i in (134, 639)] == [134, 639]
    for name, listed in (("crane", "134 (crane (bird)), 517"), ("maillot", "638 (maillot (tights)), 639")):
        with pytest.raises(TargetError, match=re.escape(listed)):
            find_class(name, imagenet_classes())


def test_cardigan_is_a_garment_and_with_a_capital_a_dog():
    assert [find_class(name, imagenet_classes()) for name in ("cardigan", "Cardigan")] == [474, 264]
    with pytest.raises(TargetError, match=r"264 \(Cardigan\), 474 \(cardigan\)"):
        find_class("CARDIGAN", imagenet_classes())


def test_other_lists_of_a_thousand_are_not_imagenet():
    assert is_imagenet(TORCHVISION)
    assert is_imagenet([f"{name}, a synonym" for name in TORCHVISION])
    assert not is_imagenet(imagenet_classes()[::-1])
    assert not is_imagenet(imagenet_classes()[1:])
    with pytest.raises(UnknownNameError):
        find_class("n02123045", ("tabby", "cat"))
