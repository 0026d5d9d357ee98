"""What an explanation says of itself, and that it comes back from disk as it was."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import seewhy
import seewhy.models
import seewhy.targets
from seewhy.core.maps import resize
from seewhy.errors import ImageError, NonFiniteError, OptionError, SeewhyError
from seewhy.explanation import CONSTANT_WARNING, OWN_FILES, SCHEMA, Explanation


@pytest.fixture
def explanation(cat) -> Explanation:
    return Explanation(
        attribution=torch.randn(7, 9),
        method="grad_cam",
        model="efficientnet_lite0",
        target={"kind": "class", "label": "tabby", "index": 281, "score": 0.634},
        layer="blocks.15",
        options={"relu": True, "steps": 8},
        image=cat,
        signed=True,
        seconds=0.25,
        source="cat.png",
        input_size=(224, 288),
    )


def plain(values, **options) -> Explanation:
    return Explanation(torch.tensor(values, dtype=torch.float32), "toy", **options)


def test_the_map_is_detached_float32_on_the_cpu():
    source = torch.ones(2, 2, dtype=torch.float64, requires_grad=True)
    kept = Explanation(source * torch.tensor([1.0, 2.0]), "toy").attribution
    assert (kept.dtype, kept.requires_grad, kept.device.type) == (torch.float32, False, "cpu")
    assert source.requires_grad


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_non_finite_maps_are_refused(bad):
    with pytest.raises(NonFiniteError, match="toy"):
        plain([[1.0, bad]])


def test_normalized_signed_keeps_zero():
    normal = plain([[-1.0, 0.0, 4.0]], signed=True).normalized()
    torch.testing.assert_close(normal, torch.tensor([[-0.25, 0.0, 1.0]]))


def test_normalized_unsigned_is_min_max():
    torch.testing.assert_close(plain([[-1.0, 0.0, 4.0]]).normalized(), torch.tensor([[0.0, 0.2, 1.0]]))


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("values", [[[0.0, 0.0]], [[0.3, 0.3]], [[1.0, 1.0 + 1e-7]], [[-2.0, -2.0]]])
def test_constant_maps_say_so(values, signed):
    constant = plain(values, signed=signed)
    assert constant.is_constant
    assert constant.warnings == [CONSTANT_WARNING]
    assert constant.normalized().count_nonzero() == 0


def test_small_contrasts_are_not_constant():
    faint = plain([[1.0, 1.0001]])
    assert not faint.is_constant
    assert faint.warnings == []
    assert faint.normalized().tolist() == [[0.0, 1.0]]
    assert not plain([[0.0, 1e-20]]).is_constant


def test_resized_keeps_cell_centers():
    ramp = plain([[0.0, 1.0]], input_size=(1, 4))
    # cell centers of 4 pixels over 2 cells: -0.25, 0.25, 0.75, 1.25, clamped at the border
    torch.testing.assert_close(ramp.resized(), torch.tensor([[0.0, 0.25, 0.75, 1.0]]))
    torch.testing.assert_close(ramp.resized(mode="nearest"), torch.tensor([[0.0, 0.0, 1.0, 1.0]]))
    assert ramp.resized((3, 5), "bicubic").shape == (3, 5)


def test_nearest_is_symmetric():
    values = torch.tensor([[0.0, 1.0, 2.0]])
    grown = resize(values, (1, 5), "nearest")
    torch.testing.assert_close(grown, 2 - grown.flip(1))


def test_resized_asks():
    with pytest.raises(OptionError, match="pass size"):
        plain([[0.0, 1.0]]).resized()
    with pytest.raises(OptionError, match="bilinear"):
        plain([[0.0, 1.0]]).resized((2, 2), "cubic")
    with pytest.raises(OptionError, match="at least 1"):
        plain([[0.0, 1.0]]).resized((0, 2))


def test_titles(explanation):
    explanation.method = "no_such_method"
    assert explanation.title == "no_such_method · tabby (0.63)"
    explanation.target = {"kind": "class", "index": 3}
    assert explanation.title == "no_such_method · 3"
    assert plain([[0.0]]).title == "toy"


def test_title_comes_from_the_methods_card():
    import seewhy.methods  # noqa: F401
    from seewhy.methods.base import METHODS

    for entry in METHODS.values():
        assert Explanation(torch.rand(2, 2), entry.card.name).title == entry.card.title


def test_round_trip(tmp_path, explanation, cat):
    folder = explanation.save(tmp_path / "new" / "cat")
    assert {p.name for p in folder.iterdir()} == OWN_FILES - {"volume.safetensors"}
    again = Explanation.load(folder)
    assert torch.equal(again.attribution, explanation.attribution)
    np.testing.assert_array_equal(again.image, cat)
    for name in (f.name for f in dataclasses.fields(Explanation) if f.name not in ("attribution", "image")):
        assert getattr(again, name) == getattr(explanation, name), name
    assert np.asarray(Image.open(folder / "overlay.png")).shape == np.asarray(explanation.overlay()).shape
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["cat"]


def test_round_trip_without_image_and_with_odd_values(tmp_path):
    options = {"layers": (1, 2), "eps": np.float32(0.5), "n": torch.tensor(3), "path": Path("a")}
    odd = plain([[0.0, 1.0]], options=options)
    again = Explanation.load(odd.save(tmp_path / "odd"))
    assert again.image is None
    assert again.input_size is None
    assert again.options == {"layers": [1, 2], "eps": 0.5, "n": 3, "path": "a"}


def test_manifest_names_the_versions(tmp_path, explanation):
    manifest = json.loads((explanation.save(tmp_path / "x") / "manifest.json").read_text())
    assert manifest["schema"] == SCHEMA
    assert manifest["versions"]["torch"] == torch.__version__
    assert set(manifest["versions"]) == {"seewhy", "torch", "python"}


def test_save_replaces_its_own_and_nothing_else(tmp_path, explanation):
    folder = tmp_path / "cat"
    explanation.save(folder)
    explanation.attribution = explanation.attribution * 2
    explanation.save(folder)
    assert torch.equal(Explanation.load(folder).attribution, explanation.attribution)
    (folder / "thesis.txt").write_text("years of work")
    with pytest.raises(SeewhyError, match=r"thesis\.txt"):
        explanation.save(folder)
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    explanation.save(foreign)  # empty: nothing to lose
    (foreign / "manifest.json").write_text("{}")
    with pytest.raises(SeewhyError, match="choose another"):
        explanation.save(foreign)
    (tmp_path / "file").touch()
    with pytest.raises(SeewhyError, match="is a file"):
        explanation.save(tmp_path / "file")


def test_a_failed_save_leaves_what_was_there(tmp_path, explanation, monkeypatch):
    explanation.save(tmp_path / "cat")
    before = explanation.attribution.clone()
    explanation.attribution = explanation.attribution + 1
    monkeypatch.setattr(Explanation, "overlay", lambda self: (_ for _ in ()).throw(RuntimeError("no")))
    with pytest.raises(RuntimeError):
        explanation.save(tmp_path / "cat")
    with pytest.raises(RuntimeError):
        explanation.save(tmp_path / "fresh")
    assert torch.equal(Explanation.load(tmp_path / "cat").attribution, before)
    assert [p.name for p in tmp_path.iterdir()] == ["cat"]


def test_a_failed_swap_puts_the_old_back(tmp_path, explanation, monkeypatch):
    explanation.save(tmp_path / "cat")
    rename = Path.rename

    def fail(self, target):
        if self.name.endswith(".new"):
            raise OSError(28, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(SeewhyError, match="No space left"):
        explanation.save(tmp_path / "cat")
    assert torch.equal(Explanation.load(tmp_path / "cat").attribution, explanation.attribution)
    assert [p.name for p in tmp_path.iterdir()] == ["cat"]


def test_broken_folders(tmp_path, explanation):
    folder = explanation.save(tmp_path / "cat")
    good = json.loads((folder / "manifest.json").read_text())

    def write(text: str) -> None:
        (folder / "manifest.json").write_text(text)

    with pytest.raises(SeewhyError, match="not a saved explanation"):
        Explanation.load(tmp_path)
    for text, hint in (
        ("{", "broken"),
        ("[]", "not a seewhy"),
        (json.dumps(good | {"schema": SCHEMA + 1}), "pip install --upgrade"),
        (json.dumps({k: v for k, v in good.items() if k != "layer"}), "lacks 'layer'"),
    ):
        write(text)
        with pytest.raises(SeewhyError, match=hint):
            Explanation.load(folder)
    write(json.dumps(good))
    (folder / "image.png").write_bytes(b"")
    with pytest.raises(ImageError, match="0 bytes"):
        Explanation.load(folder)
    for damage in (lambda p: p.write_bytes(b"xx"), lambda p: p.unlink()):
        damage(folder / "map.safetensors")
        explanation.image.save(folder / "image.png")
        with pytest.raises(SeewhyError, match="map"):
            Explanation.load(folder)


def test_notebooks_show_the_overlay(explanation):
    assert explanation._repr_png_().startswith(b"\x89PNG")


def test_the_title_says_which_of_a_methods_maps_it_is():
    for shown, title in (("importance", "RELAX"), ("uncertainty", "RELAX uncertainty")):
        assert Explanation(torch.rand(2, 2), "relax", options={"show": shown}).method_title == title
    assert Explanation(torch.rand(2, 2), "relax").method_title == "RELAX"
    assert Explanation(torch.rand(2, 2), "a method of mine", options={"show": "x"}).method_title == "a method of mine"


def test_its_words_fit_on_a_line(explanation):
    text = repr(explanation)
    assert explanation.title in text
    assert explanation.model in text
    assert "tensor" not in text
    assert len(text) < 160


# --- back to the original image ---


def test_the_map_lies_where_the_model_looked(cat):
    """Against the resize of the map to the box, and against the pixels of the input where the map is one of them."""
    from seewhy.core.preprocess import Preprocess

    whole = Explanation(torch.rand(7, 5), "lafam", box=(0.0, 0.0, 40.0, 30.0), image_size=(30, 40))
    torch.testing.assert_close(whole.on_image(), whole.resized((30, 40)))
    torch.testing.assert_close(whole.on_image(mode="nearest"), whole.resized((30, 40), "nearest"))
    recipe = Preprocess(size=(64, 64), resize=80, interpolation="bilinear")
    left, top, right, bottom = recipe.box(cat)
    seen = Explanation(recipe(cat)[0], "saliency", box=(left, top, right, bottom), image_size=(300, 451))
    placed = seen.on_image(outside=float("nan"))
    inside = ~placed.isnan()
    rows, cols = inside.any(1).nonzero().flatten(), inside.any(0).nonzero().flatten()
    assert (rows[0], rows[-1] + 1, cols[0], cols[-1] + 1) == (round(top), round(bottom), round(left), round(right))
    gray = (torch.tensor(np.asarray(cat))[..., 0] / 255 - recipe.mean[0]) / recipe.std[0]
    together = torch.stack([placed[inside], gray[inside]]).corrcoef()[0, 1]
    assert together > 0.9
    assert seen.on_image()[~inside].abs().max() == 0
    padded = Explanation(torch.ones(2, 2), "lafam", box=(-10.0, -5.0, 20.0, 15.0), image_size=(8, 9))
    assert padded.on_image().shape == (8, 9)
    assert padded.on_image().min() == 1
    with pytest.raises(OptionError, match="not known which part"):
        Explanation(torch.ones(2, 2), "lafam").on_image()
    with pytest.raises(OptionError, match="bilinear or nearest"):
        whole.on_image(mode="bicubic")


def test_boxes_are_around_the_parts_of_the_mask(tmp_path):
    values = torch.zeros(10, 10)
    values[1:3, 1:3], values[6:9, 5:8], values[0, 9] = 0.6, 1.0, 0.4
    explanation = Explanation(values, "lafam", box=(100.0, 50.0, 200.0, 150.0), image_size=(200, 300))
    assert explanation.mask(0.5).dtype == torch.bool
    boxes = explanation.boxes(0.5)
    expected = [(150, 110, 180, 140), (110, 60, 130, 80)]
    for box, (left, top, right, bottom) in zip(boxes, expected, strict=True):  # half a cell of blur on each side
        assert abs(box.left - left) <= 5 >= abs(box.top - top)
        assert abs(box.right - right) <= 5 >= abs(box.bottom - bottom)
    assert len(explanation.boxes(0.35, min_area=0)) == 3
    assert Explanation(torch.ones(3, 3), "lafam", box=(0, 0, 9, 9), image_size=(9, 9)).boxes() == []
    assert Explanation(-values, "lafam", box=(0, 0, 9, 9), image_size=(9, 9), signed=True).boxes() == []
    with pytest.raises(OptionError, match="threshold"):
        explanation.mask(1.0)
    again = Explanation.load(explanation.save(tmp_path / "e"))
    assert (again.box, again.image_size) == (explanation.box, explanation.image_size)
    manifest = json.loads((tmp_path / "e" / "manifest.json").read_text())
    assert manifest["box"] == [100.0, 50.0, 200.0, 150.0]
    (tmp_path / "e" / "manifest.json").write_text(
        json.dumps({k: v for k, v in manifest.items() if k not in ("box", "image_size")})
    )
    assert Explanation.load(tmp_path / "e").box is None  # saved by an older version


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_rotated_photo_is_explained_upright(orientation, tmp_path):
    """The object of an image that a camera stored turned is found where people see it."""
    from seewhy.core.decoding import BACK
    from seewhy.core.preprocess import Preprocess

    upright = np.zeros((120, 200, 3), np.uint8)
    upright[20:50, 130:160] = 255
    stored = Image.fromarray(upright)
    if orientation in BACK:
        stored = stored.transpose(BACK[orientation])
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "p.png", exif=exif)
    model = seewhy.wrap(
        torch.nn.Sequential(torch.nn.AvgPool2d(8), torch.nn.Conv2d(3, 1, 1), torch.nn.ReLU()),
        preprocess=Preprocess(size=(64, 64), resize=64),
        structure=seewhy.models.Structure(
            "toy",
            (seewhy.models.Layer("2", "nchw"),),
            has_logits=False,
            read=lambda raw, _: seewhy.targets.Output(embedding=raw.mean((2, 3))),
        ),
    )
    model.module[1].weight.data.fill_(1.0)
    explanation = seewhy.explain(model, tmp_path / "p.png", "lafam")
    (box,) = explanation.boxes(0.6)
    assert explanation.image_size == (120, 200)
    assert abs((box.left + box.right) / 2 - 145) < 8
    assert abs((box.top + box.bottom) / 2 - 35) < 8
    figure = np.asarray(explanation.overlay_on_image(), int)
    assert figure.shape == upright.shape
    np.testing.assert_array_equal(figure[:, 165:], upright[:, 165:])  # beside the crop it stays as it is
    assert (figure[:, 45:155] != upright[:, 45:155]).any()
    with pytest.raises(OptionError, match="has 60×50 pixels, and the one that was explained 120×200"):
        explanation.overlay_on_image(np.zeros((60, 50, 3), np.uint8))


def test_a_name_that_is_not_utf8_is_saved(explanation, tmp_path):
    import os

    explanation.source = os.fsdecode(b"bad_\xff.png")
    assert Explanation.load(explanation.save(tmp_path / "e")).source == explanation.source
