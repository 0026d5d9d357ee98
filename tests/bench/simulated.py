"""The papers' data and checkpoints, made up: official layouts and keys, a few small images, random weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from seewhy.core.imagenet import imagenet_wnids

SIZE = (60, 90)
"""Rows and columns of an image."""


def draw_sample(seed: int) -> tuple[Image.Image, np.ndarray]:
    """An image with a bright object in the middle, and the object's mask."""
    rng = np.random.default_rng(seed)
    mask = np.zeros(SIZE, bool)
    top, left = rng.integers(10, 20), rng.integers(25, 35)
    mask[top : top + 28, left : left + 30] = True
    levels = rng.integers(0, 90, (*SIZE, 3)) + 150 * mask[..., None]
    return Image.fromarray(levels.astype(np.uint8)), mask


def imagenet(root: Path) -> Path:
    """Validation images in one folder, and ReaL labels: the first and the third have two."""
    (root / "val").mkdir(parents=True)
    for i in range(3):
        draw_sample(i)[0].save(root / f"val/ILSVRC2012_val_{i + 1:08d}.JPEG")
    (root / "real.json").write_text(json.dumps([[3, 281], [7], [474, 264]]))
    return root


def imagenet_s(root: Path) -> Path:
    """All 919 class folders, and in two of them an image; the numbers in masks are R + 256·G, 1000 is ignored."""
    wnids = sorted(imagenet_wnids())[:919]
    for part in ("validation", "validation-segmentation"):
        for wnid in wnids:
            (root / "ImageNetS919" / part / wnid).mkdir(parents=True)
    for i, number in enumerate((3, 900)):
        image, mask = draw_sample(i)
        numbers = np.where(mask, number, 0)
        numbers[:4] = 1000
        rgb = np.stack([numbers % 256, numbers // 256, numbers * 0], -1).astype(np.uint8)
        image.save(root / f"ImageNetS919/validation/{wnids[number - 1]}/ILSVRC2012_val_{i + 1:08d}.JPEG")
        Image.fromarray(rgb).save(
            root / f"ImageNetS919/validation-segmentation/{wnids[number - 1]}/ILSVRC2012_val_{i + 1:08d}.png"
        )
    return root


def voc(root: Path, year: int) -> Path:
    """Two cats and a person; the person is left out by the LaFAM paper's selection."""
    folder = root / f"VOCdevkit/VOC{year}"
    names = [f"{year}_{i:06d}" for i in range(3)]
    for part in ("Main", "Segmentation"):
        (folder / "ImageSets" / part).mkdir(parents=True)
        for split in ("val", "trainval"):
            (folder / f"ImageSets/{part}/{split}.txt").write_text("\n".join(names))
    for part in ("JPEGImages", "Annotations", "SegmentationClass", "SegmentationObject"):
        (folder / part).mkdir()
    for i, name in enumerate(names):
        image, mask = draw_sample(i)
        kind, number = ("person", 15) if i == 1 else ("cat", 8)
        rows, cols = np.nonzero(mask)
        box = f"<xmin>{cols.min() + 1}</xmin><ymin>{rows.min() + 1}</ymin><xmax>{cols.max() + 1}</xmax>"
        box = f"<bndbox>{box}<ymax>{rows.max() + 1}</ymax></bndbox>"
        image.save(folder / f"JPEGImages/{name}.jpg")
        (folder / f"Annotations/{name}.xml").write_text(
            f"<annotation><object><name>{kind}</name><difficult>0</difficult>{box}</object></annotation>"
        )
        for part, value in (("SegmentationClass", number), ("SegmentationObject", 1)):
            numbers = np.where(mask, value, 0)
            numbers[:2] = 255
            palette = Image.fromarray(numbers.astype(np.uint8), mode="P")
            palette.putpalette([(7 * k) % 256 for k in range(768)])
            palette.save(folder / f"{part}/{name}.png")
    return root


def coco(root: Path) -> Path:
    """Three images of train2014, of which the list `coco_20k_filenames.txt` has two."""
    (root / "annotations").mkdir(parents=True)
    (root / "train2014").mkdir()
    images, rows = [], []
    for i in (9, 11, 20):
        image, mask = draw_sample(i)
        name = f"COCO_train2014_{i:012d}.jpg"
        image.save(root / "train2014" / name)
        ys, xs = np.nonzero(mask)
        box = [int(xs.min()), int(ys.min()), int(np.ptp(xs)) + 1, int(np.ptp(ys)) + 1]
        images.append({"id": i, "file_name": name, "height": SIZE[0], "width": SIZE[1]})
        rows.append({"id": i, "image_id": i, "category_id": 1, "iscrowd": 0, "bbox": box, "segmentation": []})
    about = {"images": images, "annotations": rows, "categories": [{"id": 1, "name": "person"}]}
    (root / "annotations/instances_train2014.json").write_text(json.dumps(about))
    listed = [f"train2014/{image['file_name']}" for image in images[:2]]
    (root / "coco_20k_filenames.txt").write_text("\n".join(listed))
    return root


def cub(root: Path) -> Path:
    """200 species, and two birds for testing."""
    folder = root / "CUB_200_2011"
    classes = [f"{i:03d}.Bird_{i}" for i in range(1, 201)]
    names = [f"{classes[i]}/Bird_{i}" for i in (4, 70)]
    for part in ("images", "segmentations"):
        for i in (4, 70):
            (folder / part / classes[i]).mkdir(parents=True)
    for i, name in enumerate(names):
        image, mask = draw_sample(i)
        image.save(folder / f"images/{name}.jpg")
        Image.fromarray((mask * 255).astype(np.uint8)).save(folder / f"segmentations/{name}.png")
    lists = {
        "images": [f"{name}.jpg" for name in names],
        "image_class_labels": [5, 71],
        "train_test_split": [0, 0],
        "classes": classes,
        "bounding_boxes": ["25.0 10.0 30.0 28.0"] * 2,
    }
    for name, values in lists.items():
        (folder / f"{name}.txt").write_text("".join(f"{i} {value}\n" for i, value in enumerate(values, 1)))
    return root


def folder(root: Path) -> Path:
    """Images with masks and a list of labels."""
    for part in ("images", "masks"):
        (root / part).mkdir(parents=True)
    for i in range(2):
        image, mask = draw_sample(i)
        image.save(root / f"images/{i}.jpg")
        Image.fromarray((mask * 255).astype(np.uint8)).save(root / f"masks/{i}.png")
    (root / "labels.csv").write_text("file,label\n0.jpg,tabby\n1.jpg,cardigan\n")
    return root


def layers_of(state: Mapping[str, torch.Tensor], prefix: str = "") -> dict[str, torch.Tensor]:
    return {prefix + key: value for key, value in state.items()}


def save_vit(path: Path, architecture: str, head: bool = True, **options: object) -> Path:
    """A ViT in timm's and DINO's names, with its head or without."""
    import timm

    state = timm.create_model(architecture, **options).state_dict()
    torch.save({key: value for key, value in state.items() if head or not key.startswith("head.")}, path)
    return path


def swav_projection(width: int) -> nn.Sequential:
    """As facebookresearch/swav has it: width → hidden → 128."""
    return nn.Sequential(nn.Linear(width, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 128))


def save_resnets(folder: Path, architecture: str) -> dict[str, Path]:
    """A ResNet as torchvision, lightning-bolts' SimCLR and the SwAV repository store it."""
    import torchvision

    state = torchvision.models.get_model(architecture, weights=None).state_dict()
    trunk = {key: value for key, value in state.items() if not key.startswith("fc.")}
    width = state["fc.weight"].shape[1]
    contents = {
        "supervised": state,
        "simclr": {"state_dict": {**layers_of(trunk, "encoder."), "projection.model.0.weight": torch.rand(8, width)}},
        "swav": {
            **layers_of(trunk, "module."),
            **layers_of(swav_projection(width).state_dict(), "module.projection_head."),
            "module.prototypes.weight": torch.rand(30, 128),
        },
    }
    for name, content in contents.items():
        torch.save(content, folder / f"{name}.pth")
    return {name: folder / f"{name}.pth" for name in contents}
