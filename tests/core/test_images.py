"""Every kind of image becomes the right RGB values, and every broken one a one-line error."""

from __future__ import annotations

import io
import struct
import warnings
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from seewhy.core.images import image_paths, load_image, load_images
from seewhy.errors import ImageError

RAMP = np.arange(0, 65536, 257 * 5, dtype=np.uint16)[:48].reshape(6, 8)  # 16-bit levels that are 0, 5, 10 ... in 8 bits


def values(image) -> np.ndarray:
    image = load_image(image)
    assert image.mode == "RGB"
    return np.asarray(image)


def gray(levels) -> np.ndarray:
    return np.repeat(np.asarray(levels, dtype=np.uint8)[..., None], 3, axis=2)


# --- files and modes ---


def test_path_and_string_and_image_agree(tmp_path, cat):
    cat.save(tmp_path / "cat.png")
    for source in (tmp_path / "cat.png", str(tmp_path / "cat.png"), cat, np.asarray(cat)):
        np.testing.assert_array_equal(values(source), np.asarray(cat))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path, orientation):
    upright = np.zeros((4, 6, 3), np.uint8)
    upright[0, 0] = 255, 0, 0
    upright[0, -1] = 0, 255, 0
    # how a camera stores it so that the viewer's transform restores it (EXIF 2.3, tag 274)
    store = [
        lambda a: a,
        lambda a: a[:, ::-1],
        lambda a: a[::-1, ::-1],
        lambda a: a[::-1],
        lambda a: a.swapaxes(0, 1),
        lambda a: np.rot90(a, 1),
        lambda a: np.rot90(a, 2).swapaxes(0, 1),
        lambda a: np.rot90(a, -1),
    ]
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(store[orientation - 1](upright))).save(tmp_path / "p.png", exif=exif)
    np.testing.assert_array_equal(values(tmp_path / "p.png"), upright)
    with Image.open(tmp_path / "p.png") as opened:
        once = load_image(opened)
    np.testing.assert_array_equal(values(once), upright)  # a second time changes nothing


def test_broken_exif_is_ignored(tmp_path, cat):
    cat.save(tmp_path / "cat.jpg", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert load_image(tmp_path / "cat.jpg").size == cat.size


def test_sixteen_bit_gray_is_scaled_not_clipped(tmp_path):
    for name in ("a.png", "a.tif"):
        Image.fromarray(RAMP).save(tmp_path / name)
        np.testing.assert_array_equal(values(tmp_path / name), gray(RAMP // 257))
    dark = RAMP // 300
    Image.fromarray(dark).save(tmp_path / "dark.png")
    assert values(tmp_path / "dark.png").max() == round(dark.max() / 257)
    np.testing.assert_array_equal(values(Image.fromarray(RAMP.astype(np.int32))), gray(RAMP // 257))  # mode I
    np.testing.assert_array_equal(values(Image.fromarray(RAMP.astype(np.int32) // 257)), gray(RAMP // 257))


def test_float_images():
    levels = (RAMP // 257).astype(np.float32)
    np.testing.assert_array_equal(values(Image.fromarray(levels)), gray(levels))
    np.testing.assert_array_equal(values(Image.fromarray(levels / 255)), gray(levels))
    with pytest.raises(ImageError, match="values run"):
        load_image(Image.fromarray(levels * 9))


def test_transparency_on_white():
    rgba = np.zeros((2, 2, 4), np.uint8)
    rgba[0, 0] = 10, 20, 30, 255
    rgba[0, 1] = 0, 0, 0, 51  # a fifth of black
    expected = [[[10, 20, 30], [204] * 3], [[255] * 3, [255] * 3]]
    np.testing.assert_array_equal(values(Image.fromarray(rgba)), expected)
    np.testing.assert_array_equal(values(rgba), expected)
    np.testing.assert_array_equal(values(torch.from_numpy(rgba).permute(2, 0, 1)), expected)
    la = Image.merge("LA", (Image.new("L", (1, 1), 100), Image.new("L", (1, 1), 0)))
    assert values(la).tolist() == [[[255] * 3]]


def test_palette_gray_bilevel_cmyk(tmp_path):
    palette = Image.new("P", (2, 1))
    palette.putpalette([1, 2, 3, 200, 100, 50])
    palette.putpixel((1, 0), 1)
    assert values(palette).tolist() == [[[1, 2, 3], [200, 100, 50]]]
    palette.save(tmp_path / "t.gif", transparency=0)
    assert values(tmp_path / "t.gif").tolist() == [[[255] * 3, [200, 100, 50]]]
    assert values(Image.new("L", (1, 1), 77)).tolist() == [[[77] * 3]]
    assert values(Image.new("1", (1, 1), 1)).tolist() == [[[255] * 3]]
    assert values(Image.new("CMYK", (1, 1), (0, 255, 255, 0))).tolist() == [[[255, 0, 0]]]


def test_lab_is_converted():
    lab = ImageCms.applyTransform(
        Image.new("RGB", (2, 2), "red"),
        ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB"),
    )
    assert np.abs(values(lab).astype(int) - (255, 0, 0)).max() < 8


def test_the_callers_image_is_left_alone(cat):
    cat.info["note"] = "mine"
    result = load_image(cat)
    assert result is not cat
    assert cat.info == {"note": "mine"}
    result.putpixel((0, 0), (0, 0, 0))
    assert cat.getpixel((0, 0)) != (0, 0, 0)


# --- arrays and tensors ---


def test_array_dtypes(cat):
    pixels = np.asarray(cat)
    for array in (
        pixels,
        pixels.astype(np.uint16) * 257,
        pixels / 255,
        (pixels / 255).astype(np.float32),
        pixels.astype(np.int64),
    ):
        np.testing.assert_array_equal(values(array), pixels)
    np.testing.assert_array_equal(values(pixels[..., 0]), gray(pixels[..., 0]))
    np.testing.assert_array_equal(values(pixels[..., :1]), gray(pixels[..., 0]))
    np.testing.assert_array_equal(values(pixels[..., 0] > 127), gray((pixels[..., 0] > 127) * 255))
    np.testing.assert_array_equal(values(pixels[::-1, ::2]), pixels[::-1, ::2])  # not contiguous
    levels = np.array([[0, 255]])  # the least and the largest level of integers wider than a byte
    assert values(levels).tolist() == [[[0] * 3, [255] * 3]]
    for beyond in (levels - 1, levels + 1):
        with pytest.raises(ImageError, match=r"values run from -?\d+ to \d+"):
            values(beyond)


def test_tensors(cat):
    pixels = np.asarray(cat)
    tensor = torch.from_numpy(pixels.copy()).permute(2, 0, 1)
    floats = (tensor / 255).requires_grad_()
    for t in (tensor, floats, floats.double(), tensor.int()):
        np.testing.assert_array_equal(values(t), pixels)
    np.testing.assert_array_equal(values(tensor[0]), gray(pixels[..., 0]))
    assert np.abs(values(floats.bfloat16()).astype(int) - pixels).max() <= 1
    assert floats.requires_grad


@pytest.mark.parametrize(
    ("bad", "hint"),
    [
        (torch.zeros(30, 40, 3), r"permute\(2, 0, 1\)"),
        (torch.zeros(2, 30, 40), "2 channels"),
        (torch.zeros(2, 3, 30, 40), "load_images"),
        (torch.zeros(3), "channels, rows, cols"),
        (torch.randn(3, 8, 8), r"seewhy\.methods\.X\(model\)\(batch\)"),
        (torch.full((3, 8, 8), 200.0), "divide by 255"),
        (torch.full((3, 8, 8), torch.nan), "NaN"),
        (torch.zeros(3, 8, 8, dtype=torch.complex64), "dtype"),
        (torch.zeros(3, 0, 8), "no pixels"),
        (np.zeros((3, 30, 40)), r"transpose\(1, 2, 0\)"),
        (np.zeros((30, 40, 5)), "5 channels"),
        (np.zeros((2, 30, 40, 3)), "load_images"),
        (np.zeros((0, 4, 3)), "no pixels"),
        (np.array([[None]]), "dtype"),
        (np.full((4, 4), np.inf), "infinity"),
        (np.full((4, 4), 300), "uint16"),
        (np.full((4, 4), -1), "from -1"),
        ("https://example.org/cat.jpg", "download"),
    ],
)
def test_bad_values_say_what_to_do(bad, hint):
    with pytest.raises(ImageError, match=hint) as caught:
        load_image(bad)
    assert "\n" not in str(caught.value)


def test_rounding_noise_is_forgiven_but_not_more():
    assert values(np.full((1, 1), 1 + 5e-5)).max() == 255
    with pytest.raises(ImageError):
        load_image(np.full((1, 1), 1.01))


# --- broken files ---


def _png(cols: int, rows: int) -> bytes:
    """A PNG header that promises many pixels, with almost no data behind it."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", cols, rows, 8, 2, 0, 0, 0)
    data = zlib.compress(b"\0" * 100)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def test_decompression_bombs(tmp_path):
    limit = Image.MAX_IMAGE_PIXELS
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for side, hint in ((10_001, "max_pixels"), (12_000, "--max-pixels"), (60_000, "max_pixels")):
            (tmp_path / "bomb.png").write_bytes(_png(side, side))
            with pytest.raises(ImageError, match=hint) as caught:
                load_image(tmp_path / "bomb.png")
            assert "bomb.png" in str(caught.value)
    assert limit == Image.MAX_IMAGE_PIXELS


def test_the_limit_is_an_option(tmp_path, cat):
    cat.save(tmp_path / "cat.png")
    pixels = cat.width * cat.height
    assert load_image(tmp_path / "cat.png", max_pixels=pixels).size == cat.size
    for source in (tmp_path / "cat.png", cat, np.asarray(cat)):
        with pytest.raises(ImageError, match="more than the limit"):
            load_image(source, max_pixels=pixels - 1)


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp", "tiff", "gif", "bmp"])
def test_truncated_files(tmp_path, cat, kind):
    buffer = io.BytesIO()
    cat.save(buffer, kind)
    data = buffer.getvalue()
    for keep in (3, 20, len(data) // 2):
        path = tmp_path / f"cut.{kind}"
        path.write_bytes(data[:keep])
        with pytest.raises(ImageError, match=r"cut\.") as caught:
            load_image(path)
        assert "\n" not in str(caught.value)


def test_what_is_no_picture(tmp_path):
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("hello")
    hints = {"empty.jpg": "0 bytes", "text.jpg": "not an image", "gone.jpg": "does not exist", ".": "folder"}
    for name, hint in hints.items():
        with pytest.raises(ImageError, match=hint):
            load_image(tmp_path / name)


# --- several ---


def test_folders(tmp_path, cat):
    small = cat.resize((20, 10))
    (tmp_path / "b").mkdir()
    (tmp_path / ".cache").mkdir()
    for name in ("z.PNG", "a.jpg", "b/c.webp", ".cache/hidden.png", "._z.png"):
        small.save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no image")
    assert [p.relative_to(tmp_path).as_posix() for p in image_paths(tmp_path)] == ["a.jpg", "b/c.webp", "z.PNG"]
    assert [i.size for i in load_images(tmp_path)] == [(20, 10)] * 3
    (tmp_path / "none").mkdir()
    with pytest.raises(ImageError, match="no images in"):
        image_paths(tmp_path / "none")
    with pytest.raises(ImageError, match="not a folder"):
        image_paths(tmp_path / "a.jpg")


def test_one_list_or_batch(cat):
    pixels = np.asarray(cat)
    batch = torch.from_numpy(np.stack([pixels, pixels[::-1]])).permute(0, 3, 1, 2)
    for source, count in ((cat, 1), ([cat, pixels], 2), (batch, 2), (batch.permute(0, 2, 3, 1).numpy(), 2)):
        images = load_images(source)
        assert len(images) == count
        np.testing.assert_array_equal(images[0], pixels)
    np.testing.assert_array_equal(load_images(batch)[1], pixels[::-1])
    with pytest.raises(ImageError, match="at least one"):
        load_images([])
