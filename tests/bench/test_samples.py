"""Where masks and boxes lie in the model's view, and which maps of a batch are scored against what."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from toys import toy_cnn

from seewhy.bench.classes import match_classes
from seewhy.bench.plan import Protocol
from seewhy.bench.samples import ImageTarget, SampleBatch
from seewhy.bench.view import boxes_in_model_view, mask_in_model_view
from seewhy.core.cards import Requirement
from seewhy.core.imagenet import imagenet_classes
from seewhy.core.preprocess import Preprocess
from seewhy.data import Dataset, Sample
from seewhy.data.base import dataset
from seewhy.errors import ModelError, OptionError

PREPROCESSINGS = {
    "center crop": Preprocess(size=(64, 64), resize=80),
    "crop without margin": Preprocess(size=(64, 64), resize=64),
    "wide crop": Preprocess(size=(48, 80), resize=(60, 100)),
    "tall crop, offsets rounded down": Preprocess(size=(81, 49), resize=97, offset="floor"),
    "padding": Preprocess(size=(96, 96), resize=70),
    "squash": Preprocess(size=(60, 40), resize=None),
    "squash and crop": Preprocess(size=(60, 40), resize=(75, 66), crop="squash"),
    "no crop": Preprocess(size=(64, 64), resize=64, crop="none"),
}
SHAPES = [(91, 141), (133, 71), (65, 65)]  # odd, so that no center of a cell lies on the edge of a pixel


def model_with(preprocess):
    model = toy_cnn()
    model.preprocess = preprocess
    return model


def draw_masks(rows: int, cols: int) -> np.ndarray:
    """An ellipse off the middle, a bar at the edge, and noise: any shift or flip shows."""
    y, x = np.mgrid[:rows, :cols]
    ellipse = ((y - rows * 0.4) / (rows * 0.3)) ** 2 + ((x - cols * 0.6) / (cols * 0.25)) ** 2 < 1
    noise = np.random.default_rng(0).random((rows, cols)) < 0.5
    return np.stack([ellipse, x > 0.8 * cols, noise])


def preprocess_as_image(mask: np.ndarray, preprocess: Preprocess) -> np.ndarray:
    """The mask as the model would get it if it were an image."""
    drawing = Image.fromarray(np.where(mask, 255, 0).astype(np.uint8)).convert("RGB")
    plain = replace(preprocess, interpolation="nearest", mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    return plain(drawing)[0].numpy() > 0.5


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("preprocess", PREPROCESSINGS.values(), ids=PREPROCESSINGS)
def test_masks_lie_where_the_preprocessing_puts_them(preprocess, shape):
    masks = draw_masks(*shape)
    expected = np.stack([preprocess_as_image(mask, preprocess) for mask in masks])
    found = mask_in_model_view(model_with(preprocess), Image.new("RGB", shape[::-1]), masks, expected.shape[1:])
    np.testing.assert_array_equal(found, expected)
    assert found[2].any()


@pytest.mark.parametrize("size", [(7, 9), (12, 5), (100, 90)])
def test_masks_on_another_grid_take_the_pixel_at_the_center_of_each_cell(size):
    masks, preprocess = draw_masks(91, 141), PREPROCESSINGS["center crop"]
    image = Image.new("RGB", (141, 91))
    view = preprocess.box(image)
    found = mask_in_model_view(model_with(preprocess), image, masks, size)
    for mask, one in zip(masks, found, strict=True):
        drawing = Image.fromarray(np.where(mask, 255, 0).astype(np.uint8))
        expected = drawing.resize(size[::-1], Image.Resampling.NEAREST, box=view)
        np.testing.assert_array_equal(one, np.asarray(expected) > 0)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("preprocess", PREPROCESSINGS.values(), ids=PREPROCESSINGS)
def test_boxes_surround_the_masks_that_fill_them(preprocess, shape):
    rows, cols = shape
    left, top, right, bottom = box = np.array([cols // 4, rows // 3, cols // 4 + cols // 3, rows - rows // 5])
    mask = np.zeros(shape, bool)
    mask[top:bottom, left:right] = True
    seen = preprocess_as_image(mask, preprocess)
    ys, xs = np.nonzero(seen)
    (found,) = boxes_in_model_view(model_with(preprocess), Image.new("RGB", (cols, rows)), box[None] * 1.0, seen.shape)
    np.testing.assert_allclose(found, [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1], atol=1)


def test_boxes_by_hand():
    """200 × 100 becomes 100 × 50; of it, 40 × 40 from (30, 5)."""
    model, image = model_with(Preprocess(size=(40, 40), resize=50)), Image.new("RGB", (200, 100))
    boxes = np.array(
        [
            [80.0, 20, 120, 60],  # inside: halved, moved by (30, 5)
            [0.0, 0, 90, 100],  # cut off at the left, the top and the bottom
            [0.0, 0, 60, 100],  # left of the view
            [140.0, 20, 200, 60],  # right of it
            [80.0, 0, 120, 10],  # above
            [80.0, 90, 120, 100],  # below
        ]
    )
    np.testing.assert_allclose(
        boxes_in_model_view(model, image, boxes, (40, 40)), [[10, 5, 30, 25], [0, 0, 15, 40]], atol=1e-12
    )
    np.testing.assert_allclose(
        boxes_in_model_view(model, image, boxes[:1], (10, 20)), [[5, 1.25, 15, 6.25]], atol=1e-12
    )
    assert boxes_in_model_view(model, image, np.zeros((0, 4)), (40, 40)).shape == (0, 4)


def test_a_preprocess_function_without_a_known_view_is_refused():
    model = model_with(lambda image: torch.zeros(3, 32, 32))
    image, mask = Image.new("RGB", (40, 40)), np.ones((1, 40, 40), bool)
    with pytest.raises(ModelError, match=r"does not tell which region.*preprocess=Preprocess"):
        mask_in_model_view(model, image, mask, (32, 32))
    sample_batch = SampleBatch(model, Zoo(), Protocol(), None, [(0, Sample("a", image, (0,), mask))])
    assert sample_batch.union_mask(0) is None


@dataset(
    name="zoo",
    title="Zoo",
    summary="three samples",
    splits=("all",),
    layout=(),
    has={Requirement.OBJECTS, Requirement.LABEL},
    source="none",
    citation="none",
    register=False,
)
class Zoo(Dataset):
    """Two cats and a dog; a bird; nothing that has a name."""

    class_names = ("cat", "dog", "bird")
    split = "all"
    ids = ("three", "one", "none")

    def read(self, index):
        image = Image.fromarray(np.random.default_rng(index).integers(0, 256, (32, 48, 3), dtype=np.uint8))
        masks = np.zeros((3, 32, 48), bool)
        masks[0, :8, :8] = masks[1, 8:16, :8] = masks[2, 24:, 40:] = True
        if index == 0:
            return Sample("three", image, (1, 0, 0), masks, ignore=masks.any(0) & (np.arange(48) == 0))
        if index == 1:
            return Sample("one", image, (2,), masks[:1])
        return Sample("none", image)


CLASSES = [4, 2, 0]  # of the model: cat, dog, bird


def make_batch(target="label", rows=(0, 1), classes=CLASSES, contrast_maps=False, samples=None):
    model = model_with(Preprocess(size=(32, 48), resize=None))
    samples = samples or [(row, Zoo()[row]) for row in rows]
    return SampleBatch(model, Zoo(), Protocol(target=target), classes, samples, contrast_maps)


def test_the_targets_are_each_class_once_the_first_or_the_prediction():
    dog, cat, bird = ImageTarget(0, 1, 2, "dog"), ImageTarget(0, 0, 4, "cat"), ImageTarget(1, 2, 0, "bird")
    assert make_batch().targets == [dog, cat, bird]
    assert make_batch("first").targets == [dog, bird]
    batch = make_batch("prediction", rows=(0, 1, 2))
    batch.output.logits[:] = torch.eye(5)[[2, 0, 3]]
    assert [(t.row, t.label, t.class_index, t.name) for t in batch.targets] == [
        (0, None, 2, "cat"),  # as the model names its classes
        (1, None, 0, "ant"),
        (2, None, 3, "dog"),
    ]
    batch = make_batch("prediction", rows=(1,))
    batch.model.class_names = None
    batch.output.logits[:] = torch.eye(5)[3]
    assert batch.targets[0].name == "class 3"


def test_a_plans_target_is_the_class_that_explain_explains():
    """For each word: the class, as `as_target` settles it by the same output."""
    for word in ("top-1", "top-2", "top-5", "cat", 3, "3"):
        batch = make_batch(word, rows=(0, 1, 2))
        batch.output.logits[:] = torch.tensor([[1.0, 5, 2, 4, 3], [9.0, 7, 8, 6, 0], [0.0, 1, 2, 3, 4]])
        settled = batch.model.as_target(word).fixed(batch.output)
        assert [t.class_index for t in batch.targets] == [settled.index[row % len(settled.index)] for row in range(3)]
        assert [t.name for t in batch.targets] == [settled.label(row, batch.model.class_names) for row in range(3)]
    for former, now in (("prediction", "top-1"), ("label", "truth")):
        old, new = make_batch(former, rows=(0, 1)), make_batch(now, rows=(0, 1))
        new.model = old.model
        assert old.targets == new.targets


def test_a_class_that_is_named_is_compared_with_its_objects():
    batch = make_batch(4, rows=(0, 1, 2), contrast_maps=True)  # the dataset's cats
    assert [(t.label, t.class_index) for t in batch.targets] == [(0, 4)] * 3
    inputs = batch.metric_inputs((32, 48))
    masks = Zoo()[0].masks
    np.testing.assert_array_equal(inputs.masks[0], masks[1] | masks[2])
    assert not inputs.masks[1:].any()  # no cat there
    assert inputs.labels.tolist() == [4, 0, -1]  # the second image shows a bird, the third nothing
    assert batch.contrasts == [(0, 2), (1, 0), None]


def test_a_class_that_only_the_model_knows_is_compared_with_all_objects():
    batch = make_batch("ant", classes=[4, 2, 1])
    assert batch.targets[0] == ImageTarget(0, None, 0, "ant")
    np.testing.assert_array_equal(batch.metric_inputs((32, 48)).masks[0], Zoo()[0].masks.any(0))


def test_a_contrast_is_the_next_other_class_of_the_image():
    batch = make_batch(contrast_maps=True)
    assert batch.contrasts == [(0, 4), (0, 2), None]  # of the dog the cat, of the cat the dog, of the bird nothing
    assert batch.pairs == [(0, 2), (0, 4), (1, 0)]  # both contrasts are targets already
    first = make_batch("first", contrast_maps=True)
    assert first.contrasts == [(0, 4), None]
    assert first.pairs == [(0, 2), (1, 0), (0, 4)]  # one map more than targets
    three = make_batch(samples=[(0, replace(Zoo()[0], labels=(1, 0, 2)))], contrast_maps=True)
    assert three.contrasts == [(0, 4), (0, 0), (0, 2)]  # of the dog the cat, of the cat the bird, of the bird the dog
    assert make_batch().contrasts == [None] * 3
    assert make_batch(classes=None, contrast_maps=True).contrasts == [None] * 3


def test_the_contrast_of_a_prediction_is_another_class_than_the_predicted():
    batch = make_batch("prediction", rows=(0, 1, 2), contrast_maps=True)
    batch.output.logits[:] = torch.eye(5)[[2, 0, 0]]  # dog, bird, bird
    assert batch.contrasts == [(0, 4), None, None]


def test_metrics_get_the_masks_of_the_target_and_all_objects_of_the_image():
    batch = make_batch()
    inputs = batch.metric_inputs((32, 48))
    masks = Zoo()[0].masks
    np.testing.assert_array_equal(inputs.masks[0], masks[0])
    np.testing.assert_array_equal(inputs.masks[1], masks[1] | masks[2])  # both cats
    assert [len(objects) for objects in inputs.objects] == [3, 3, 1]
    np.testing.assert_array_equal(inputs.objects[1], masks)
    assert inputs.valid.logical_not().sum((1, 2)).tolist() == [16, 16, 0]  # pixels of the first column that are masked
    assert [box.tolist() for box in inputs.boxes] == [[[0, 0, 8, 8]], [[0, 8, 8, 16], [40, 24, 48, 32]], [[0, 0, 8, 8]]]
    assert inputs.labels.tolist() == [2, 4, 0]
    assert inputs.model is batch.model
    torch.testing.assert_close(inputs.x, batch.x[[0, 0, 1]])
    assert batch.metric_inputs((32, 48)) is inputs
    small = batch.metric_inputs((8, 12))
    assert small.masks.shape == (3, 8, 12)
    assert small.boxes[1].tolist() == [[0, 2, 2, 4], [10, 6, 12, 8]]
    assert (small.model, small.x) == (None, None)


def test_a_prediction_is_compared_with_all_objects():
    batch = make_batch("prediction", rows=(0, 2))
    inputs = batch.metric_inputs((32, 48))
    np.testing.assert_array_equal(inputs.masks[0], Zoo()[0].masks.any(0))
    assert not inputs.masks[1].any()
    assert [len(boxes) for boxes in inputs.boxes] == [3, 0]
    np.testing.assert_array_equal(batch.union_mask(0), Zoo()[0].masks.any(0))
    assert batch.union_mask(1) is None


@pytest.mark.parametrize(("predicted", "true"), [(2, 2), (4, 4), (1, 2)])
def test_the_true_class_of_a_prediction_is_the_predicted_if_it_is_shown_else_the_first(predicted, true):
    batch = make_batch("prediction", rows=(0, 2))
    batch.output.logits[:] = torch.eye(5)[predicted]
    assert batch.metric_inputs((32, 48)).labels.tolist() == [true, -1]


def test_objects_outside_of_the_view_are_left_out():
    batch = make_batch()
    batch.model.preprocess = Preprocess(size=(16, 16), resize=32)  # rows 8-24 and columns 16-32: none of the objects
    inputs = batch.metric_inputs((16, 16))
    assert [len(objects) for objects in inputs.objects] == [0, 0, 0]
    assert [len(boxes) for boxes in inputs.boxes] == [0, 0, 0]
    assert not inputs.masks.any()


def test_classes_are_matched_by_name_or_by_number():
    data, model = Zoo(), toy_cnn()
    model.class_names = None
    with pytest.raises(OptionError, match=r'3 classes, the model 5.*use target = "top-1"'):
        match_classes(data, model)
    assert match_classes(data, model, required=False) is None
    model.class_names = ("a bird", "Bird", "dog", "fish", "cat, kitten")
    assert match_classes(data, model) == [4, 2, 1]
    model.class_names = ("a", "b", "dog", "fish", "cat")
    with pytest.raises(OptionError, match=r"classes are not the model's.*'bird'"):
        match_classes(data, model)
    model.class_names = None
    data.class_names = tuple("abcde")
    assert match_classes(data, model) == [0, 1, 2, 3, 4]
    data.class_names, model.class_names = ("7", "1"), ("1", "7", "2", "3", "4")
    assert match_classes(data, model) == [1, 0]  # called "7": not the class number 7


def test_the_classes_of_imagenet_are_matched_by_number_whoever_spelled_them():
    data, model = Zoo(), toy_cnn()
    data.class_names = imagenet_classes()
    model.class_names = tuple(f"{name.upper()}, a synonym" for name in imagenet_classes())
    assert match_classes(data, model) == list(range(1000))
    model.class_names = model.class_names[::-1]  # the same names in an order of their own
    data.class_names = ("tabby",)
    assert match_classes(data, model) == [999 - 281]
