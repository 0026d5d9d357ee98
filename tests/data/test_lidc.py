"""LIDC-IDRI: scans and marks in the archive's form, and prepared crops."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from seewhy.data import load_data
from seewhy.data.lidc import COLUMNS, hounsfield_to_gray
from seewhy.data.lidc_marks import BIOMARKERS, RATED, Mark, Outline, consensus, fill_outline, group_marks, read_xml
from seewhy.errors import DataError, OptionError

SERIES = "1.3.6.1.4.1.14519.5.2.1.6279.6001.179049373636438705059603192"
SLICES = {f"{SERIES}.{k}": -125.0 + 2.5 * k for k in range(4)}
ROWS, COLS = 80, 96


def square(left: int, top: int, side: int) -> list[tuple[int, int]]:
    """The outline whose inside is the square of that corner and side: every pixel of the ring around it, as (x, y)."""
    a, b, c, d = left - 1, top - 1, left + side, top + side
    return (
        [(x, b) for x in range(a, c)]
        + [(c, y) for y in range(b, d)]
        + [(x, d) for x in range(c, a, -1)]
        + [(a, y) for y in range(d, b, -1)]
    )


def _roi(k: int, points: list[tuple[int, int]], inclusion: bool = True) -> str:
    uid, z = list(SLICES.items())[k]
    edges = "".join(f"<edgeMap>\n<xCoord>{x}</xCoord>\n<yCoord>{y}</yCoord>\n</edgeMap>\n" for x, y in points)
    return (
        f"<roi>\n<imageZposition>{z:.6f} </imageZposition>\n<imageSOP_UID>{uid}</imageSOP_UID>\n"
        f"<inclusion>{str(inclusion).upper()}</inclusion>\n{edges}</roi>\n"
    )


def _nodule(name: str, ratings: list[int], rois: str) -> str:
    rated = "".join(f"<{n}>{v}</{n}>\n" for n, v in zip(RATED, ratings, strict=False))
    return (
        f"<unblindedReadNodule>\n<noduleID>{name}</noduleID>\n<characteristics>\n{rated}</characteristics>\n"
        f"{rois}</unblindedReadNodule>\n"
    )


def xml() -> str:
    """Three readers. Nodule A on slices 1 and 2 (all three, the third with a hole), B on slice 0 (the first only);
    also a nodule below 3 mm and a non-nodule."""
    small = _nodule("small", [], _roi(3, [(70, 70)]))
    non = (
        f"<nonNodule>\n<nonNoduleID>9</nonNoduleID>\n<imageZposition>-125.0</imageZposition>\n"
        f"<imageSOP_UID>{SERIES}.0</imageSOP_UID>\n<locus>\n<xCoord>5</xCoord>\n<yCoord>5</yCoord>\n</locus>\n</nonNodule>\n"
    )
    sessions = [
        _nodule("Nodule 001", [5, 1, 6, 3, 3, 3, 4, 5, 5], _roi(1, square(40, 30, 8)) + _roi(2, square(41, 31, 6)))
        + _nodule("Nodule 002", [2, 1, 6, 4, 4, 1, 1, 5, 1], _roi(0, square(5, 60, 4)))
        + small,
        _nodule("77", [4, 1, 6, 4, 3, 3, 4, 5, 4], _roi(1, square(42, 30, 8))) + non,
        _nodule(
            "IL1", [3, 1, 6, 5, 3, 3, 4, 5, 3], _roi(1, square(40, 32, 8)) + _roi(1, square(43, 34, 2), inclusion=False)
        ),
    ]
    body = "".join(
        f"<readingSession>\n<annotationVersion>3.12</annotationVersion>\n<servicingRadiologistID>anonymous"
        f"</servicingRadiologistID>\n{s}</readingSession>\n"
        for s in sessions
    )
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n<LidcReadMessage uid="1.3.6.1.4.1.14519.5.2.1.6279.6001.1308168" '
        'xmlns="http://www.nih.gov" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xsi:schemaLocation='
        '"http://www.nih.gov http://troll.rad.med.umich.edu/lidc/LidcReadMessage.xsd">\n<ResponseHeader>\n<Version>'
        f"1.8.1</Version>\n<TaskDescription>Second unblinded read</TaskDescription>\n<SeriesInstanceUid>{SERIES}"
        f"</SeriesInstanceUid>\n</ResponseHeader>\n{body}</LidcReadMessage>\n"
    )


def hounsfield(k: int) -> np.ndarray:
    """Air that brightens to the right, told apart by slice."""
    return np.tile(np.arange(COLS) * 10 - 1000, (ROWS, 1)) + 3 * k


def build(tmp_path: Path) -> tuple[Path, dict]:
    """One CT of four slices with its XML, and a chest X-ray; in the archive's folders."""
    pydicom = pytest.importorskip("pydicom")
    folder = tmp_path / "LIDC-IDRI-0001" / "01-01-2000-NA-NA-30178" / "3000566.000000-NA-03192"
    folder.mkdir(parents=True)
    for k, (uid, z) in enumerate(SLICES.items()):
        _write(pydicom, folder / f"1-{4 - k:03d}.dcm", uid, z, hounsfield(k))
    (folder / "069.xml").write_text(xml())
    xray = tmp_path / "LIDC-IDRI-0001" / "01-01-2000-NA-NA-35511" / "3000923.000000-NA-62357"
    xray.mkdir(parents=True)
    _write(pydicom, xray / "1-1.dcm", "1.2.3", 0.0, hounsfield(0), modality="DX")
    return tmp_path, {"readers": 1, "size": 32}


def _write(pydicom, path: Path, uid: str, z: float, hu: np.ndarray, modality: str = "CT") -> None:
    meta = pydicom.dataset.FileMetaDataset()
    meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = pydicom.uid.CTImageStorage
    meta.MediaStorageSOPInstanceUID = uid
    data = pydicom.dataset.FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID, data.SOPInstanceUID, data.SeriesInstanceUID = pydicom.uid.CTImageStorage, uid, SERIES
    data.PatientID, data.Modality, data.ImagePositionPatient = "LIDC-IDRI-0001", modality, [-166.0, -171.7, z]
    data.PixelSpacing, data.SliceThickness = [0.7, 0.7], 2.5
    data.RescaleSlope, data.RescaleIntercept = 1, -1024
    data.Rows, data.Columns, data.SamplesPerPixel = ROWS, COLS, 1
    data.PhotometricInterpretation, data.PixelRepresentation = "MONOCHROME2", 1
    data.BitsAllocated, data.BitsStored, data.HighBit = 16, 16, 15
    data.PixelData = (hu + 1024).astype("<i2").tobytes()
    data.save_as(path, enforce_file_format=True)


def _consensus_of_a() -> np.ndarray:
    """Nodule A on slice 1: two of three readers, by hand."""
    votes = np.zeros((ROWS, COLS), dtype=int)
    votes[30:38, 40:48] += 1
    votes[30:38, 42:50] += 1
    votes[32:40, 40:48] += 1
    votes[33:37, 42:46] -= 1  # the hole and its outline
    return votes >= 2


def test_consensus_ratings_and_crop_of_a_scan(tmp_path: Path) -> None:
    root, _ = build(tmp_path)
    data = load_data("lidc", root, size=32)
    assert data.ids == ("LIDC-IDRI-0001-603192-2",)  # B is nodule 1, and has one reader
    item = data[0]
    whole = _consensus_of_a()
    ys, xs = np.nonzero(whole)
    top, left = (ys.min() + ys.max() + 1 - 32) // 2, (xs.min() + xs.max() + 1 - 32) // 2
    assert (item.masks[0] == whole[top : top + 32, left : left + 32]).all()
    assert item.masks.sum() == whole.sum() > 50
    wanted = np.rint(255 * np.clip((hounsfield(1) + 600) / 1500 + 0.5, 0, 1))[top : top + 32, left : left + 32]
    assert (np.asarray(item.image) == wanted[..., None]).all()
    assert (item.labels, item.about["malignancy"], item.about["readers"]) == ((1,), 4.0, 3)
    assert item.about["biomarkers"] == {
        "subtlety": 4,
        "calcification": 6,
        "sphericity": 4,
        "margin": 3,
        "lobulation": 3,
        "spiculation": 4,
        "texture": 5,
        "diameter": pytest.approx(0.7 * 9 * 2**0.5),
    }
    assert item.about["internalStructure"] == 1
    assert item.about["diameter_mm"] == item.about["biomarkers"]["diameter"]


def test_splits_and_readers(tmp_path: Path) -> None:
    root, _ = build(tmp_path)
    both = load_data("lidc", root, readers=1, size=32)
    assert [item.labels for item in both] == [(0,), (1,)]
    assert both[0].masks.sum() == 16
    assert both[0].boxes.tolist() == [[5, 14, 9, 18]]  # pushed back into the image at the left
    text = xml().replace("<malignancy>4<", "<malignancy>1<")
    next(root.rglob("*.xml")).write_text(text)
    assert len(load_data("lidc", root)) == 0
    assert load_data("lidc", root, split="all")[0].labels == (2,)


def test_marks_in_a_folder_of_their_own(tmp_path: Path) -> None:
    root, _ = build(tmp_path / "scans")
    other = tmp_path / "tcia-lidc-xml" / "157"
    other.mkdir(parents=True)
    next(root.rglob("*.xml")).rename(other / "158.xml")
    with pytest.raises(DataError, match=r"no \*\.xml"):
        load_data("lidc", root)
    assert len(load_data("lidc", root, annotations=other.parent)) == 1


def test_file_names_in_capitals_and_marks_of_other_scans(tmp_path: Path) -> None:
    root, _ = build(tmp_path)
    for path in [*root.rglob("*.dcm"), *root.rglob("*.xml")]:
        path.rename(path.with_suffix(path.suffix.upper()))
    item = load_data("lidc", root, size=32)[0]
    assert item.masks.sum() == _consensus_of_a().sum()
    xml_file = next(root.rglob("*.XML"))
    xml_file.write_text(xml().replace(SERIES, f"{SERIES}9"))
    with pytest.raises(DataError, match=r"none of the 1 XML files .* is about a CT series"):
        load_data("lidc", root)


def test_slices_without_a_place_are_found_by_their_names(tmp_path: Path) -> None:
    pydicom = pytest.importorskip("pydicom")
    root, _ = build(tmp_path)
    for path in root.rglob("*.dcm"):
        data = pydicom.dcmread(path)
        data.ImagePositionPatient = None
        data.save_as(path)
    assert load_data("lidc", root, size=32)[0].masks.sum() == _consensus_of_a().sum()


def test_a_fill_is_what_is_strictly_inside() -> None:
    """Against a literal test of each pixel on random closed walks, spikes and crossings included."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        angles = np.linspace(0, 2 * np.pi, rng.integers(5, 40), endpoint=False)
        radius = rng.uniform(3, 12, len(angles))
        points = np.rint(14 + radius[:, None] * np.column_stack([np.cos(angles), np.sin(angles)])).astype(int)
        inside, _ = fill_outline(points, (28, 26))
        wanted = np.zeros((28, 26), dtype=bool)
        own = {tuple(p) for p in points.tolist()}
        for y in range(28):
            for x in range(26):
                crossings = sum(
                    (y1 <= y < y2 or y2 <= y < y1) and x > x1 + (y - y1) * (x2 - x1) / (y2 - y1)
                    for (x1, y1), (x2, y2) in zip(points, np.roll(points, -1, 0), strict=True)
                )
                wanted[y, x] = crossings % 2 and (x, y) not in own
        assert (inside == wanted).all()


def _mark(reader: int, left: int, top: int, side: int = 6, z: float = 0.0) -> Mark:
    return Mark(reader, dict.fromkeys(RATED, 3), (Outline(str(z), z, True, np.array(square(left, top, side))),))


def test_which_marks_are_of_one_nodule() -> None:
    near = [_mark(r, 20 + r, 20) for r in range(4)]
    far, above = _mark(0, 20 + 6 + 2 + 10, 20), _mark(1, 20, 20, z=2.5)
    assert [len(g) for g in group_marks([*near, far], (0.7, 0.7), 2.5)] == [4, 1]
    assert [len(g) for g in group_marks([near[0], above], (0.7, 0.7), 2.5)] == [2]
    assert [len(g) for g in group_marks([near[0], above], (0.7, 0.7), 2.0)] == [1, 1]
    # two nodules with a gap of two pixels: one of eight marks until the distance is below 1.4 mm
    beside = [_mark(r, 20 + r + 12, 20, 4) for r in range(4)]
    assert [len(g) for g in group_marks([*near, *beside], (0.7, 0.7), 2.5)] == [4, 4]


@pytest.mark.parametrize("readers", [1, 2, 3, 4])
def test_consensus_is_half_of_the_readers_or_more(readers: int) -> None:
    votes = np.zeros((30, 30), dtype=int)
    for r in range(readers):
        votes[10:16, 10 + 2 * r : 16 + 2 * r] += 1
    found = consensus([_mark(r, 10 + 2 * r, 10) for r in range(readers)], "0.0", (30, 30))
    assert (found == (votes >= {1: 1, 2: 1, 3: 2, 4: 2}[readers])).all()


def test_two_marks_of_one_reader_are_one_vote() -> None:
    marks = [_mark(0, 10, 10), _mark(0, 16, 10), _mark(1, 10, 10, 12), _mark(2, 40, 40)]
    votes = consensus(marks, "0.0", (60, 60))
    assert votes.sum() == 72


def test_prepared_crops(tmp_path: Path) -> None:
    mask = np.zeros((8, 10), dtype=np.uint8)
    mask[2:5, 3:7] = 1
    np.save(tmp_path / "a.npy", np.full((8, 10), -600.0))
    np.save(tmp_path / "a_mask.npy", mask)
    Image.fromarray(np.full((8, 10), 77, np.uint8)).save(tmp_path / "b.png")
    Image.fromarray(mask * 255).save(tmp_path / "b_mask.png")
    rows = [
        "id,image,mask,malignancy," + ",".join(COLUMNS) + ",readers,hospital",
        "a,a.npy,a_mask.npy,4.5," + "2.5," * 8 + "4,x",
        "b,b.png,b_mask.png,3," + "1," * 8 + "3,y",
    ]
    (tmp_path / "nodules.csv").write_text("\n".join(rows))
    data = load_data("lidc", tmp_path, split="all")
    a, b = data
    assert (a.labels, b.labels) == ((1,), (2,))
    assert (np.unique(a.image).tolist(), np.unique(b.image).tolist()) == ([128], [77])
    assert (a.masks == b.masks).all()
    assert a.boxes.tolist() == [[3, 2, 7, 5]]
    biomarkers = dict.fromkeys(BIOMARKERS, 2.5)
    others = {"diameter_mm": 2.5, "readers": 4, "hospital": "x"}
    assert a.about == {"malignancy": 4.5, "biomarkers": biomarkers, **others}
    assert load_data("lidc", tmp_path).ids == ("a",)
    (tmp_path / "nodules.csv").write_text("id,image,mask\n")
    with pytest.raises(DataError, match="it needs malignancy, subtlety"):
        load_data("lidc", tmp_path)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda text: text.replace("4.5,", "nan,", 1), "line 2: 'nan' is not a rating"),
        (lambda text: text.replace("2.5\n", "-1\n"), "line 2: '-1' is not a diameter"),
        (lambda text: text.replace("4.5,", "9,", 1), "line 2: '9' is not a rating"),
        (lambda text: text.replace("4.5,", "high,", 1), "line 2: .* ratings are numbers"),
        (lambda text: text + text.splitlines()[1], "names 'a' twice"),
        (lambda text: text.replace("2.5,", ",", 1), "line 2: .* ratings are numbers"),
    ],
)
def test_a_table_of_crops_that_cannot_be_right(tmp_path: Path, change, says) -> None:
    text = f"id,image,mask,malignancy,{','.join(COLUMNS)}\na,a.npy,m.npy,4.5,{','.join(['2.5'] * 8)}\n"
    (tmp_path / "nodules.csv").write_text(text)
    assert load_data("lidc", tmp_path).ids == ("a",)
    (tmp_path / "nodules.csv").write_text(change(text))
    with pytest.raises(DataError, match=says):
        load_data("lidc", tmp_path)


@pytest.mark.parametrize(
    "array",
    [np.full((8, 10), np.nan), np.zeros((8, 10), complex), np.full((8, 10), "a"), np.zeros((8, 10, 3))],
    ids=["nan", "complex", "text", "3d"],
)
def test_crops_that_are_no_numbers(tmp_path: Path, array) -> None:
    (tmp_path / "nodules.csv").write_text(
        f"id,image,mask,malignancy,{','.join(COLUMNS)}\na,a.npy,m.npy,4.5,{','.join(['2.5'] * 8)}\n"
    )
    for bad, good in (("a", "m"), ("m", "a")):
        np.save(tmp_path / f"{bad}.npy", array)
        np.save(tmp_path / f"{good}.npy", np.ones((8, 10)))
        with pytest.raises(DataError, match=rf"{bad}\.npy holds .*; store finite numbers"):
            load_data("lidc", tmp_path)[0]


def test_windows() -> None:
    values = np.array([[-2000.0, -1350.0, -600.0, 150.0, 3000.0]])
    assert hounsfield_to_gray(values, -600, 1500).tolist() == [[0, 0, 128, 255, 255]]


def test_what_goes_wrong_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="LIDC-IDRI"):
        load_data("lidc", tmp_path)
    root, options = build(tmp_path)
    with pytest.raises(OptionError, match="larger than the scan"):
        load_data("lidc", root, size=90)[0]
    data = load_data("lidc", root, **options)
    folder = next(root.rglob("*.xml")).parent
    (folder / "1-003.dcm").write_bytes((folder / "1-003.dcm").read_bytes()[:-5000])  # nodule A's slice
    assert data[0].labels == (0,)
    with pytest.raises(DataError, match=r"1-003\.dcm cannot be read"):
        data[1]
    (folder / "069.xml").write_text(xml()[:-300])
    with pytest.raises(DataError, match="cannot be read as a LIDC annotation"):
        load_data("lidc", root)


def test_the_readers_of_an_xml_file(tmp_path: Path) -> None:
    (tmp_path / "x.xml").write_text(xml())
    marks = read_xml(tmp_path / "x.xml")
    assert [(m.reader, m.ratings["malignancy"], len(m.outlines)) for m in marks] == [
        (0, 5, 2),
        (0, 1, 1),
        (1, 4, 1),
        (2, 3, 2),
    ]
