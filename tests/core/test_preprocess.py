"""The input against torchvision, timm and transformers; the box against a image whose pixels know where they are."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from seewhy.core.deep import DeepImage
from seewhy.core.preprocess import CLIP, IMAGENET, IMAGENET_BICUBIC, Preprocess
from seewhy.errors import ImageError, OptionError

SIZES = [(451, 300), (300, 451), (299, 224), (224, 224), (333, 500), (40, 30), (256, 257), (1000, 31)]


def draw_image(cols: int, rows: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(cols).integers(0, 256, (rows, cols, 3), dtype=np.uint8))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("preprocess", [IMAGENET, IMAGENET_BICUBIC, CLIP, Preprocess(size=(96, 160), resize=170)])
def test_equals_torchvision(size, preprocess):
    from torchvision import transforms

    image = draw_image(*size)
    mode = transforms.InterpolationMode(preprocess.interpolation)
    reference = transforms.Compose(
        [
            transforms.Resize(preprocess.resize, mode),
            transforms.CenterCrop(preprocess.size),
            transforms.ToTensor(),
            transforms.Normalize(preprocess.mean, preprocess.std),
        ]
    )(image)
    torch.testing.assert_close(preprocess(image), reference, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    "config",
    [
        {"input_size": (3, 224, 224), "crop_pct": 0.9, "interpolation": "bicubic", "crop_mode": "center"},
        {"input_size": (3, 240, 240), "crop_pct": 0.95, "interpolation": "bilinear", "crop_mode": "center"},
        {"input_size": (3, 128, 256), "crop_pct": 0.875, "interpolation": "bicubic", "crop_mode": "center"},
        {"input_size": (3, 224, 224), "crop_pct": 1.0, "interpolation": "bicubic", "crop_mode": "squash"},
        {"input_size": (3, 224, 192), "crop_pct": 0.9, "interpolation": "lanczos", "crop_mode": "squash"},
        {"input_size": (3, 224, 224), "crop_pct": 1.0, "interpolation": "bicubic", "crop_mode": "border"},
        {"input_size": (3, 96, 240), "crop_pct": 0.9, "interpolation": "bilinear", "crop_mode": "border"},
    ],
)
def test_equals_timm(size, config):
    from timm.data.transforms_factory import transforms_imagenet_eval

    config = config | {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4)}
    image = draw_image(*size)
    options = {k: v for k, v in config.items() if k != "input_size"}
    reference = transforms_imagenet_eval(config["input_size"][1:], **options)(image)
    torch.testing.assert_close(Preprocess.from_timm(config)(image), reference, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("CLIPImageProcessor", {}),
        ("ViTImageProcessor", {}),
        ("SiglipImageProcessor", {}),
        ("DeiTImageProcessor", {}),
        ("BitImageProcessor", {"size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 224}}),
        ("ConvNextImageProcessor", {"size": {"shortest_edge": 224}}),
        ("ConvNextImageProcessor", {"size": {"shortest_edge": 384}}),
        ("ViTImageProcessor", {"do_normalize": False}),
        ("ViTImageProcessor", {"do_rescale": False, "do_normalize": False}),
    ],
)
@pytest.mark.parametrize("size", [(451, 300), (300, 453), (227, 224)])  # the last: half a pixel of offset
def test_equals_transformers(name, options, size):
    """Its Pillow backend; the tensor backend, its default, differs from that by rounding and by clipping in bicubic."""
    import transformers

    processor = getattr(transformers, f"{name}Pil")(**options)
    preprocess = Preprocess.from_hf(json.loads(processor.to_json_string()))
    image = draw_image(*size)
    reference = torch.as_tensor(processor(image, return_tensors="pt")["pixel_values"][0]).float()
    torch.testing.assert_close(preprocess(image), reference, atol=2e-6, rtol=1e-6)


def test_old_hf_files():
    assert Preprocess.from_hf({"size": 224, "do_center_crop": True, "crop_size": 224}).resize == 224
    assert Preprocess.from_hf({"size": 224}).resize is None
    assert Preprocess.from_hf({"size": [256, 128]}).size == (256, 128)
    with pytest.raises(OptionError, match="not supported"):
        Preprocess.from_hf({"size": {"longest_edge": 512}})


def test_efficientnet_lite_scale(cat):
    lite = Preprocess(mean=(127 / 255,) * 3, std=(128 / 255,) * 3)
    plain = Preprocess(mean=(0.0,) * 3, std=(1.0,) * 3, rescale=1.0)
    torch.testing.assert_close(lite(cat), (plain(cat) - 127) / 128, atol=1e-6, rtol=1e-6)


def coordinates(cols: int, rows: int) -> Image.Image:
    """Red says how far right, green how far down."""
    x, y = np.linspace(0, 255, cols), np.linspace(0, 255, rows)
    return Image.fromarray(np.stack([*np.meshgrid(x, y), np.zeros((rows, cols))], -1).round().astype(np.uint8))


@pytest.mark.parametrize(
    "preprocess",
    [
        IMAGENET,
        CLIP,
        Preprocess(resize=None),
        Preprocess(size=(100, 200), resize=(120, 230), crop="squash"),
        Preprocess(size=(100, 200), resize=(120, 230)),
        Preprocess(resize=200, crop="none"),
    ],
)
def test_box_and_view_are_what_the_input_covers(preprocess):
    image = coordinates(600, 400)
    left, top, right, bottom = preprocess.box(image)
    seen = preprocess.denormalize(preprocess(image))
    # pixel centers of the input, mapped back to the source by the box, must read the source's own coordinates
    rows, cols = seen.shape[1:]
    x = left + (torch.arange(cols) + 0.5) / cols * (right - left)
    y = top + (torch.arange(rows) + 0.5) / rows * (bottom - top)
    inner = slice(2, -2)  # at the very edge the filter has fewer neighbors
    torch.testing.assert_close(seen[0, rows // 2, inner], ((x - 0.5) / 599)[inner], atol=0.006, rtol=0)
    torch.testing.assert_close(seen[1, inner, cols // 2], ((y - 0.5) / 399)[inner], atol=0.006, rtol=0)
    view = preprocess.visible_region(image)
    assert view.size == (round(right - left), round(bottom - top))
    back = np.asarray(view.resize((cols, rows), Image.Resampling.BILINEAR), np.float32) / 255
    assert np.abs(back[inner, inner] - seen.permute(1, 2, 0).numpy()[inner, inner]).max() < 0.01


def test_view_is_native_or_smaller(cat):
    whole = Preprocess(resize=None)
    np.testing.assert_array_equal(whole.visible_region(cat), np.asarray(cat))
    assert whole.visible_region(cat, long_side=100).size == (100, 67)


def test_padding_is_outside_of_the_box_and_black():
    small = Preprocess(size=(64, 64), resize=32)
    image = Image.new("RGB", (32, 32), "white")
    assert small.box(image) == (-16, -16, 48, 48)
    view = np.asarray(small.visible_region(image))
    np.testing.assert_array_equal(view, (small.denormalize(small(image)) * 255).round().permute(1, 2, 0).byte().numpy())
    assert view[0, 0].max() == 0
    assert view[32, 32].min() == 255


def test_denormalize_inverts(cat):
    seen = (CLIP.denormalize(CLIP(cat)) * 255).round().permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(seen, np.asarray(CLIP._geometry(cat)))


def test_with_size():
    assert IMAGENET.with_size(384, 384).resize == 438  # floor(384 / 0.875), as timm
    assert CLIP.with_size(336, 336).resize == 336
    assert Preprocess(resize=None).with_size(64, 32).resize is None
    image = coordinates(600, 400)
    others = Preprocess(resize=None), Preprocess(resize=256, crop="squash"), Preprocess(crop="none")
    for preprocess in (IMAGENET, CLIP, *others):
        assert preprocess.with_size(96, 160)(image).shape == (3, 96, 160)


def test_batch(cat, coffee):
    torch.testing.assert_close(IMAGENET.batch([cat, coffee]), torch.stack([IMAGENET(cat), IMAGENET(coffee)]))
    free = Preprocess(crop="none", resize=128)
    assert free(cat).shape == (3, 128, 192)
    with pytest.raises(OptionError, match="one input size"):
        free.batch([cat, draw_image(100, 100)])
    with pytest.raises(OptionError, match="no images"):
        free.batch([])


def test_pad_keeps_the_image_s_own_pixels_and_fills_up_with_zeros():
    image = draw_image(33, 20)
    padded = Preprocess(size=(16, 16), resize=None, crop="pad")
    plain = Preprocess(resize=None, crop="none")
    assert padded(image).shape == (3, 32, 48)
    assert torch.equal(padded(image)[:, :20, :33], plain(image))
    assert not padded(image)[:, 20:].any()
    assert not padded(image)[:, :, 33:].any()
    assert padded.box(image) == (0, 0, 48, 32)
    assert padded(draw_image(32, 16)).shape == (3, 16, 32)


def test_other_modes_are_read_properly():
    deep = Image.fromarray(np.full((256, 256), 40000, np.uint16))
    assert IMAGENET.denormalize(IMAGENET(deep)).mean().item() == pytest.approx(round(40000 / 257) / 255, abs=1e-6)


def test_dict_round_trip():
    for preprocess in (IMAGENET, CLIP, Preprocess(resize=(3, 4), size=(2, 2), crop="squash"), Preprocess(resize=None)):
        again = Preprocess.from_dict(json.loads(json.dumps(preprocess.to_dict())))
        assert again == preprocess
        assert hash(again) == hash(preprocess)
    with pytest.raises(OptionError, match="no option 'color'"):
        Preprocess.from_dict({"color": 1})


@pytest.mark.parametrize(
    "options",
    [
        {"size": (0, 1)},
        {"resize": 0},
        {"interpolation": "cubic"},
        {"crop": "left"},
        {"std": (0.0, 1.0, 1.0)},
        {"offset": "up"},
    ],
)
def test_impossible_options(options):
    with pytest.raises(OptionError):
        Preprocess(**options)
    with pytest.raises(OptionError, match="levels"):
        Preprocess(levels=(3, 3))
    with pytest.raises(OptionError, match="letterbox"):
        Preprocess.from_timm({"crop_mode": "letterbox"})


def test_recipes_for_other_channels():
    gray = Preprocess.from_timm({"input_size": (1, 8, 8), "mean": (0.1, 0.2, 0.6), "std": (0.5, 0.5, 0.5)})
    assert (gray.channels, gray.mean, gray.std) == (1, (0.3,), (0.5,))
    assert Preprocess.from_hf({"image_mean": [0.4], "image_std": [0.2], "size": 8}).channels == 1
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8))
    levels = np.asarray(image.convert("L").resize((10, 8), Image.Resampling.BILINEAR).crop((1, 0, 9, 8)), np.float32)
    torch.testing.assert_close(gray.changed(crop=1.0)(image)[0], torch.tensor((levels / 255 - 0.3) / 0.5))
    five = Preprocess(size=(8, 8), resize=None).with_channels(5)
    with pytest.raises(ImageError, match="takes 5 channels and an RGB image has 3"):
        five(image)
    bands = np.random.default_rng(0).random((8, 8, 5)).astype(np.float32)
    x = five(DeepImage(bands))
    torch.testing.assert_close(x, (torch.tensor(bands).permute(2, 0, 1) - five.mean[0]) / five.std[0])


@pytest.mark.parametrize("size", [(3, 4000), (4000, 3), (20, 3000)])
def test_only_what_is_seen_of_a_long_image_is_made(size, monkeypatch):
    """The same levels, up to the rounding of 8 bits, as of the whole image."""
    levels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    for interpolation, image, atol in (
        ("bilinear", Image.fromarray(levels), 1.01 / 255),
        ("bicubic", DeepImage(levels / np.float32(255)), 1e-4),  # 8-bit steps are clipped in an order that depends
    ):
        recipe = Preprocess(size=(56, 56), resize=64, interpolation=interpolation, std=(1.0,) * 3)
        monkeypatch.setattr("seewhy.core.preprocess.LARGE", 0)
        seen = recipe(image)
        monkeypatch.setattr("seewhy.core.preprocess.LARGE", 10**12)
        torch.testing.assert_close(seen, recipe(image), atol=atol, rtol=0)


def test_what_a_person_changes():
    recipe = Preprocess().changed(size=384, mean=0.5, std=(0.2, 0.3, 0.4), crop=None)
    assert (recipe.size, recipe.resize, recipe.mean, recipe.std) == ((384, 384), 438, (0.5,) * 3, (0.2, 0.3, 0.4))
    assert recipe.origin.endswith("; size, mean, std as given")
    assert Preprocess().changed(crop=0.875).resize == 256
    assert Preprocess().changed(crop="squash").resize is None
    assert Preprocess().changed() == Preprocess()
    assert Preprocess().describe() == (
        "resize short side to 256, bilinear, center crop 224×224, levels / 255, mean 0.485 0.456 0.406, "
        "std 0.229 0.224 0.225"
    )
    assert (
        "stretch to 384×384, bicubic, levels / 255, mean 0.5 each"
        in Preprocess((384, 384), None, (0.5,) * 3, interpolation="bicubic").describe()
    )
    for wrong in ({"crop": "left"}, {"crop": 1.5}, {"color": 1}):
        with pytest.raises(OptionError):
            Preprocess().changed(**wrong)
