"""More than 8 bits, other channels and other files reach the model as they are; what Pillow would run is not opened."""

from __future__ import annotations

import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, TiffImagePlugin

import seewhy
from seewhy.core.deep import DeepImage, LowRangeWarning
from seewhy.core.images import load_image, load_images, read_image
from seewhy.core.preprocess import Preprocess
from seewhy.errors import ImageError, OptionError

WHOLE = Preprocess(size=(32, 32), resize=None, mean=(0.0,), std=(1.0,), interpolation="nearest")
"""Gray between 0 and 1 as it is."""

RAMP = np.arange(1024, dtype=np.uint16).reshape(32, 32)


def fractions(image, recipe: Preprocess = WHOLE) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LowRangeWarning)
        return recipe(read_image(image, channels=recipe.channels))[0].numpy()


def tiff(path: Path, array: np.ndarray, **tags: int) -> Path:
    info = TiffImagePlugin.ImageFileDirectory_v2()
    for tag, value in tags.items():
        info[int(tag.removeprefix("t"))] = value
    Image.fromarray(array).save(path, tiffinfo=info)
    return path


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_every_level_of_16_bits_reaches_the_preprocessing(suffix: str, tmp_path: Path) -> None:
    """12 bits in 16: 8-bit steps would leave 4 of these 1024 levels."""
    Image.fromarray(RAMP).save(tmp_path / f"ct.{suffix}")
    for source in (tmp_path / f"ct.{suffix}", RAMP, RAMP.astype(">u2")):
        np.testing.assert_allclose(fractions(source), RAMP / np.float32(65535), rtol=1e-6)
    window = Preprocess(**{**WHOLE.to_dict(), "levels": (0, 1023)})
    np.testing.assert_allclose(fractions(RAMP, window), RAMP / np.float32(1023), rtol=1e-6)
    with pytest.warns(LowRangeWarning, match=r"levels end at 1023: .* Preprocess\(levels=\(0, 1023\)\) / --levels"):
        WHOLE(read_image(RAMP))
    assert np.asarray(load_image(RAMP)).max() == 4  # 8-bit RGB is still on the 16-bit scale
    assert np.asarray(read_image(RAMP).view()).max() == 255  # and people see it


def test_floats_are_not_cut_to_8_bits(tmp_path: Path) -> None:
    ramp = np.linspace(0, 1, 1024, dtype=np.float32).reshape(32, 32)
    Image.fromarray(ramp).save(tmp_path / "f.tif")
    np.save(tmp_path / "f.npy", ramp[..., None].repeat(3, 2))
    for source in (ramp, tmp_path / "f.tif", tmp_path / "f.npy", torch.from_numpy(ramp)):
        np.testing.assert_allclose(fractions(source), ramp, atol=1e-6)
    np.save(tmp_path / "hu.npy", ramp * 4000 - 1000)
    with pytest.raises(ImageError, match=r"values run from -1e\+03 to 3e\+03.*levels=\(-1e\+03, 3e\+03\)"):
        fractions(tmp_path / "hu.npy")
    windowed = Preprocess(**{**WHOLE.to_dict(), "levels": (-1000, 3000)})
    np.testing.assert_allclose(fractions(tmp_path / "hu.npy", windowed), ramp, atol=1e-6)


def test_a_preprocess_of_ones_own_gets_the_image_as_it_came(tmp_path: Path) -> None:
    got = []

    def preprocess(image) -> torch.Tensor:
        got.append(np.asarray(image))
        return torch.zeros(3, 8, 8)

    model = seewhy.wrap_function(lambda x: x.mean((2, 3)), preprocess=preprocess)
    Image.fromarray(RAMP).save(tmp_path / "ct.png")
    bands = np.random.default_rng(0).normal(size=(8, 8, 5)).astype(np.float32)
    model.preprocess_images([tmp_path / "ct.png", bands])
    np.testing.assert_array_equal(got[0], RAMP)
    np.testing.assert_array_equal(got[1], bands)
    model = seewhy.wrap_function(lambda x: x, preprocess=lambda image: image.convert("RGB"))
    with pytest.raises(ImageError, match=r"reached preprocess as it is, an array .* of float32, and that failed"):
        model.preprocess_images(bands)


def test_white_is_zero_in_some_tiffs(tmp_path: Path) -> None:
    scan = RAMP * 64
    np.testing.assert_allclose(fractions(tiff(tmp_path / "a.tif", scan, t262=0)), 1 - scan / 65535, atol=1e-6)
    floats = (RAMP / 1023).astype(np.float32)
    np.testing.assert_allclose(fractions(tiff(tmp_path / "b.tif", floats, t262=0)), 1 - floats, atol=1e-6)
    np.testing.assert_array_equal(np.asarray(load_image(tmp_path / "a.tif"))[0, 0], 255)


def test_signed_bytes_are_not_taken_for_unsigned(tmp_path: Path) -> None:
    path = tiff(tmp_path / "i8.tif", np.arange(256, dtype=np.uint8).reshape(16, 16), t339=2)
    with pytest.raises(ImageError, match=r"int8 values run from -128 to 127; .*levels=\(-128, 127\)"):
        load_image(path)
    recipe = Preprocess(**{**WHOLE.to_dict(), "levels": (-128, 127), "size": (16, 16)})
    np.testing.assert_allclose(fractions(path, recipe)[0, :2], [128 / 255, 129 / 255], rtol=1e-6)


def test_transparency_of_16_bits_is_white(tmp_path: Path) -> None:
    Image.fromarray(RAMP * 60).save(tmp_path / "t.png", transparency=0)
    assert fractions(tmp_path / "t.png")[0, :2].tolist() == [1.0, pytest.approx(60 / 65535)]


def test_pages_of_a_tiff_are_channels(tmp_path: Path) -> None:
    bands = np.random.default_rng(0).integers(0, 65536, (13, 8, 8), dtype=np.uint16)
    first, *others = (Image.fromarray(band) for band in bands)
    first.save(tmp_path / "s2.tif", save_all=True, append_images=others)
    np.save(tmp_path / "s2.npy", bands)
    for path in (tmp_path / "s2.tif", tmp_path / "s2.npy"):
        np.testing.assert_array_equal(read_image(path, channels=13).values, bands.transpose(1, 2, 0))
    assert read_image(tmp_path / "s2.tif").channels == 1  # as before, the first page
    rgba = np.random.default_rng(0).integers(0, 256, (8, 8, 4), dtype=np.uint8)
    Image.fromarray(rgba).save(tmp_path / "four.png")
    for source in (rgba, tmp_path / "four.png"):
        np.testing.assert_array_equal(read_image(source, channels=4).values, rgba)
        assert read_image(source).mode == "RGB"
    with pytest.raises(ImageError, match="not 13; it looks channels-first"):
        read_image(bands, channels=13)


@pytest.mark.parametrize("kind", ["MONOCHROME2", "MONOCHROME1"])
def test_dicom_is_windowed_and_its_values_are_kept(kind: str, tmp_path: Path) -> None:
    pydicom = pytest.importorskip("pydicom")
    data = pydicom.Dataset()
    data.Rows = data.Columns = 32
    data.BitsAllocated = data.BitsStored = 16
    data.HighBit, data.PixelRepresentation, data.SamplesPerPixel = 15, 0, 1
    data.PhotometricInterpretation, data.RescaleSlope, data.RescaleIntercept = kind, 2, -1000
    data.WindowCenter, data.WindowWidth = [40, 300], [401, 1500]
    data.PixelData = RAMP.tobytes()
    data.SOPClassUID, data.SOPInstanceUID = pydicom.uid.CTImageStorage, pydicom.uid.generate_uid()
    data.file_meta = pydicom.dataset.FileMetaDataset()
    data.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    data.save_as(tmp_path / "ct.dcm", enforce_file_format=True)
    hounsfield = RAMP * 2.0 - 1000
    shown = ((hounsfield - (40 - 0.5)) / 400 + 0.5).clip(0, 1)  # DICOM PS3.3, C.11.2.1.2.1, with y from 0 to 1
    image = read_image(tmp_path / "ct.dcm")
    np.testing.assert_array_equal(image.values[..., 0], hounsfield)
    np.testing.assert_allclose(fractions(tmp_path / "ct.dcm"), shown if kind == "MONOCHROME2" else 1 - shown, atol=1e-6)
    assert load_images(tmp_path)[0].size == (32, 32)  # a folder lists them
    (tmp_path / "no.dcm").write_bytes(b"DICM" * 50)
    with pytest.raises(ImageError, match="no DICOM image"):
        read_image(tmp_path / "no.dcm")


def test_no_file_starts_a_program(tmp_path: Path, monkeypatch) -> None:
    """A PostScript file with the name of a JPEG: Pillow would hand it to Ghostscript."""

    def run(*_: object, **__: object) -> None:
        raise AssertionError("a program was started")

    monkeypatch.setattr("subprocess.check_call", run)
    monkeypatch.setattr("subprocess.Popen", run)
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 20 20\n%%EndComments\n{} loop\nshowpage\n"
    (tmp_path / "image.jpg").write_bytes(eps)
    for name, content in {"p.npy": np.array([print], dtype=object), "q.npy": {"a": 1}}.items():
        np.save(tmp_path / name, content, allow_pickle=True)
    for name in ("image.jpg", "p.npy", "q.npy"):
        with pytest.raises(ImageError, match=r"not an image that seewhy reads|no \.npy array of numbers"):
            load_image(tmp_path / name)


@pytest.mark.parametrize("name", ["~nosuchuser_image.jpg", "x" * 300 + ".jpg", "a\0b.jpg"])
def test_names_that_no_file_has_are_one_line(name: str) -> None:
    with pytest.raises(ImageError, match=r"cannot be read|does not exist"):
        load_image(name)


def test_orientation_may_be_any_kind_of_number(tmp_path: Path) -> None:
    tall = np.zeros((6, 4, 3), np.uint8)
    tall[0, 0] = 255
    start = b"Exif\0\0II*\0" + struct.pack("<IHHH", 8, 1, 0x0112, 5)
    rational = start + struct.pack("<IIIII", 1, 26, 0, 6, 1)
    real = start[:-2] + struct.pack("<HIfI", 11, 1, 6.0, 0)
    for exif in (rational, real):
        Image.fromarray(tall).save(tmp_path / "p.png", exif=exif)
        assert np.asarray(load_image(tmp_path / "p.png"))[0, -1].tolist() == [255] * 3
    ramp = np.arange(24, dtype=np.uint16).reshape(4, 6)
    for orientation, turned in {6: np.rot90(ramp, -1), 8: np.rot90(ramp, 1), 3: np.rot90(ramp, 2)}.items():
        path = tiff(tmp_path / "t.tif", ramp, t274=orientation)
        np.testing.assert_array_equal(read_image(path).values[..., 0], turned)
        np.testing.assert_array_equal(read_image(path, upright=False).values[..., 0], ramp)
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.fromarray(ramp).save(tmp_path / "t.png", exif=exif)
        np.testing.assert_array_equal(read_image(tmp_path / "t.png").values[..., 0], turned)


@pytest.mark.parametrize("channels", [1, 2, 4, 13])
def test_models_of_any_channels_are_explained(channels: int, cat) -> None:
    module = torch.nn.Sequential(
        torch.nn.Conv2d(channels, 8, 3, 2, 1), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()
    )
    module = torch.nn.Sequential(*module, torch.nn.Linear(8, 3)).eval()
    model = seewhy.wrap(module, preprocess=Preprocess((32, 32), None).with_channels(channels))
    image = np.random.default_rng(0).integers(0, 65536, (40, 50, channels), dtype=np.uint16)
    x = model.preprocess_images(image)
    assert x.shape == (1, channels, 32, 32)
    torch.testing.assert_close(model.predict(image), module(x))
    for method in ("grad_cam", "integrated_gradients", "occlusion"):
        explanation = seewhy.explain(model, image, method, target=1)
        assert explanation.image.mode == "RGB"
    black = seewhy.methods.IntegratedGradients(model, baseline="black", n_steps=4)(x, target=1)
    start = (torch.zeros(1, channels, 1, 1) - model.preprocess.mean[0]) / model.preprocess.std[0]
    by_value = seewhy.methods.IntegratedGradients(model, baseline=start, n_steps=4)(x, target=1)
    torch.testing.assert_close(black, by_value)
    if channels == 1:
        assert seewhy.explain(model, cat, "grad_cam", target=1).image.size == (451, 300)
    else:
        with pytest.raises(OptionError, match="has no meaning in"):
            seewhy.methods.IntegratedGradients(model, baseline="red")(x, target=1)
    assert seewhy.wrap(module).preprocess.channels == channels


def test_what_is_no_image_of_the_model_is_said() -> None:
    with pytest.raises(ImageError, match=r"has 5 channels and the model takes 3; select them"):
        DeepImage(np.zeros((2, 2, 5), np.uint16)).levels(3)
    with pytest.raises(ImageError, match=r"has 5 channels, not 1, 3 or 4"):
        read_image(np.zeros((2, 2, 5), np.uint16))


@pytest.mark.slow
def test_every_door_takes_images_of_the_models_channels() -> None:
    """Segments, randomization, concepts and TCAV read images as explain does: five bands are five bands."""
    module = torch.nn.Sequential(
        torch.nn.Sequential(torch.nn.Conv2d(5, 8, 3, 2, 1), torch.nn.ReLU()),
        torch.nn.Sequential(torch.nn.Conv2d(8, 8, 3, 2, 1), torch.nn.ReLU()),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(8, 3),
    ).eval()
    model = seewhy.wrap(module, preprocess=Preprocess((32, 32), None).with_channels(5))
    draw = np.random.default_rng(0)
    images = [draw.integers(0, 65536, (32, 32, 5), dtype=np.uint16) for _ in range(8)]
    assert seewhy.segment(model, images[0], k=3).labels.shape
    (cascade,) = seewhy.randomization_test(model, images[0], ["grad_cam"], target=1, steps=2)
    assert len(cascade.steps) == 2
    like = seewhy.targets.reference(model, images[1])
    assert seewhy.explain(model, images[0], "grad_cam", target=like).target["kind"]
    dark = [image // 8 * np.uint16(i) for i, image in enumerate(images[:3], 1)]
    result = seewhy.tcav(model, images[:2], 1, dark, images, runs=2)
    assert 0 <= result.score <= 1


# ── colors of 16 bits ─────────────────────────────────────────────────────────────────────────────────────────────────
def colors(channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 65536, (20, 31, channels), np.uint16)


def as_png(values: np.ndarray, path: Path, rows: int | None = None) -> Path:
    """Write a 16-bit PNG by hand: one filter (Sub) of the five, so that decoders have something to undo."""
    height, width, channels = values.shape
    lines = np.zeros((height, 1 + width * channels * 2), np.uint8)
    flat = values.astype(">u2").view(np.uint8).reshape(height, -1)
    step = 2 * channels
    lines[:, 0], lines[:, 1:] = 1, flat
    lines[:, 1 + step :] -= flat[:, :-step]
    header = struct.pack(">IIBBBBB", width, height, 16, {3: 2, 4: 6}[channels], 0, 0, 0)
    data = zlib.compress(lines[:rows].tobytes())
    chunks = [(b"IHDR", header), (b"IDAT", data), (b"IEND", b"")]
    encoded = b"".join(struct.pack(">I", len(c)) + k + c + struct.pack(">I", zlib.crc32(k + c)) for k, c in chunks)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + encoded)
    return path


def as_tiff(values: np.ndarray, path: Path, planes: int = 1, order: str = "<") -> Path:
    """Write an uncompressed 16-bit RGB TIFF by hand, in either byte order."""
    height, width, _ = values.shape
    laid = values if planes == 1 else values.transpose(2, 0, 1)
    content = np.ascontiguousarray(laid).astype(f"{order}u2").tobytes()
    n, size = (1, len(content)) if planes == 1 else (3, len(content) // 3)
    offsets = [8 + size * i for i in range(n)]
    after = 8 + len(content)
    extra = struct.pack(f"{order}3H", 16, 16, 16) + struct.pack(f"{order}{n}I", *offsets)
    extra += struct.pack(f"{order}{n}I", *[size] * n)
    bits, strips, counts = after, after + 6, after + 6 + 4 * n
    place = (offsets[0], size) if n == 1 else (strips, counts)
    tags = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 3, bits), (259, 3, 1, 1), (262, 3, 1, 2)]
    tags += [(273, 4, n, place[0]), (277, 3, 1, 3), (278, 4, 1, height), (279, 4, n, place[1]), (284, 3, 1, planes)]
    entries = b""
    for tag, kind, count, value in tags:
        short = kind == 3 and count == 1
        entries += struct.pack(f"{order}HHI", tag, kind, count)
        entries += struct.pack(f"{order}HH", value, 0) if short else struct.pack(f"{order}I", value)
    start = (b"II*\x00" if order == "<" else b"MM\x00*") + struct.pack(f"{order}I", after + len(extra))
    directory = struct.pack(f"{order}H", len(tags)) + entries + struct.pack(f"{order}I", 0)
    path.write_bytes(start + content + extra + directory)
    return path


def test_colors_of_16_bits_keep_all_of_them(tmp_path: Path) -> None:
    values = colors()
    ppm = tmp_path / "c.ppm"
    ppm.write_bytes(b"P6\n31 20\n65535\n" + values.astype(">u2").tobytes())
    files = [as_png(values, tmp_path / "c.png"), as_tiff(values, tmp_path / "c.tif"), ppm]
    files.append(as_tiff(values, tmp_path / "big.tif", order=">"))
    for file in files:
        read = read_image(file)
        assert isinstance(read, DeepImage), f"{file.name} was cut to 8 bits"
        np.testing.assert_array_equal(read.values, values)
        np.testing.assert_array_equal(read_image(Image.open(file)).values, values)
    four = colors(4)
    read = read_image(as_png(four, tmp_path / "rgba.png"), channels=4)
    np.testing.assert_array_equal(read.values, four)
    on_white = np.asarray(load_image(tmp_path / "rgba.png"), np.float64)
    alpha = four[..., 3:] / 65535
    np.testing.assert_allclose(on_white, 255 * (four[..., :3] / 65535 * alpha + 1 - alpha), atol=0.51)


def test_colors_of_16_bits_are_turned_upright(tmp_path: Path) -> None:
    values = colors()
    image = Image.open(as_png(values, tmp_path / "c.png"))
    exif = Image.Exif()
    exif[0x0112] = 6
    content = (tmp_path / "c.png").read_bytes()
    chunk = b"eXIf" + exif.tobytes()[6:]
    turned = content[:33] + struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    (tmp_path / "turned.png").write_bytes(turned + content[33:])
    read = read_image(tmp_path / "turned.png")
    np.testing.assert_array_equal(read.values, np.rot90(values, -1))
    assert image.size == (31, 20)


def test_separate_planes_are_refused_not_misread(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="separate planes"):
        read_image(as_tiff(colors(), tmp_path / "planes.tif", planes=2))


def test_a_png_without_its_last_rows_is_truncated(tmp_path: Path) -> None:
    """Its compressed data end well, so that Pillow leaves the rest black without a word."""
    with pytest.raises(ImageError, match="holds 12 of 20 rows"):
        read_image(as_png(colors(), tmp_path / "half.png", rows=12))
    black = np.zeros((20, 31, 3), np.uint16)
    assert read_image(as_png(black, tmp_path / "black.png")).values.max() == 0
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(tmp_path / "gray.png")
    assert read_image(tmp_path / "gray.png").size == (9, 9)
