"""Every block of docs/models.md runs, one after the other, on tiny models."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import seewhy

PAGE = Path(__file__).resolve().parents[2] / "docs" / "models.md"


def blocks() -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", PAGE.read_text("utf-8"), re.DOTALL | re.MULTILINE)


class Net(nn.Module):
    def __init__(self, channels: int = 3, outputs: int = 2, more: int = 0) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(channels, 4, 3, 2), nn.Conv2d(4, 8, 3, 2)
        self.fc = nn.Linear(8 + more, outputs)

    def embedded(self, x: Tensor) -> Tensor:
        return self.conv2(self.conv1(x).relu()).relu().mean((2, 3))

    def forward(self, x: Tensor, table: Tensor | None = None) -> Tensor:
        pooled = self.embedded(x)
        return self.fc(pooled if table is None else torch.cat([pooled, table], 1))


class WithTable(Net):
    def forward(self, x: Tensor, table: Tensor) -> Tensor:
        return super().forward(x, table)


class Encoder(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.embedded(x)


class Segmenter(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 6, 5, 4, 2), nn.ReLU(), nn.Conv2d(6, 2, 1))


def prepared(folder: Path, cat: Image.Image) -> dict[str, Any]:
    """Write the files that the page reads, and return the names that it uses."""
    timm, transformers = pytest.importorskip("timm"), pytest.importorskip("transformers")
    from test_detectors import Yolo
    from test_text import clip, tokenizer
    from test_volumes import BallNet, ball

    cat.save(folder / "cat.jpg")
    cat.rotate(90).save(folder / "dog.jpg")
    Image.fromarray(np.arange(4096, dtype=np.uint16).reshape(64, 64)).save(folder / "ct.png")
    np.save(folder / "scan.npy", ball() * 1400 - 1000)
    torch.save(timm.create_model("test_resnet", num_classes=2).state_dict(), folder / "resnet.pth")
    width = timm.create_model("test_resnet", num_classes=0).num_features
    torch.save(nn.Linear(width, 3).state_dict(), folder / "linear.pth")
    config = transformers.ViTConfig(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=32, image_size=32, patch_size=8
    )
    transformers.ViTForImageClassification(config).save_pretrained(folder / "my_hf_folder")
    mask = torch.zeros(64, 64, dtype=torch.bool)
    mask[20:40, 20:40] = True
    return {
        "net": Net().eval(),
        "age_net": Net(outputs=1).eval(),
        "encoder": Encoder().eval(),
        "net_with_table": WithTable(more=2).eval(),
        "my_transform": seewhy.Preprocess((64, 64)),
        "clip_module": clip(),
        "tokenizer": tokenizer(),
        "segmenter": Segmenter().eval(),
        "mask": mask,
        "yolo": Yolo(False).eval(),
        "gray_net": Net(1).eval(),
        "volume_net": BallNet().eval(),
    }


@pytest.mark.timeout(300)
def test_every_block_runs(cat: Image.Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "models"))  # its tests have the tiny models
    names = prepared(tmp_path, cat)
    monkeypatch.chdir(tmp_path)
    assert len(blocks()) > 10
    for block in blocks():
        exec(block, names)
    figures = ("cat_top2.png", "pair.png", "slice.png", "slices.png")
    assert all((tmp_path / name).stat().st_size > 500 for name in figures)
    assert names["explanation"].attribution.shape
