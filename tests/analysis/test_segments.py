"""`seewhy.segment`: one image, several, all together."""

from __future__ import annotations

import numpy as np
import pytest

import seewhy
from seewhy.analysis import ImageSegments
from seewhy.data.scenes import Scenes
from seewhy.errors import OptionError

IMAGES = [Scenes("multi")[i].image for i in (3, 7)]


@pytest.fixture(scope="module")
def model():
    return seewhy.load_model("scenes_cnn", device="cpu")


def test_one_image_gives_its_segments_and_several_a_list(model):
    one = seewhy.segment(model, IMAGES[0], k=4)
    several = seewhy.segment(model, IMAGES, k=4)
    assert isinstance(one, ImageSegments)
    assert [type(each) for each in several] == [ImageSegments] * 2
    np.testing.assert_array_equal(one.labels, several[0].labels)  # the others make no difference
    assert one.image.size == IMAGES[0].size
    assert sum(one.shares) == pytest.approx(1)


def test_together_the_same_number_means_the_same_in_each(model):
    together = seewhy.segment(model, IMAGES, k=3, joint=True)
    total = np.sum([one.shares for one in together], axis=0)
    assert (np.diff(total) <= 0).all()  # numbered by size over all images


def test_options_reach_the_method(model):
    everything = seewhy.segment(model, IMAGES[0], k=3, min_area=0, border=0)
    assert sum(part.area for part in everything.components) == 96 * 96
    with pytest.raises(OptionError, match="color"):
        seewhy.segment(model, IMAGES[0], color="red")
