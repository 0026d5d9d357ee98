"""A run folder as the engine writes it, made up: the tests of the report know what is true in it."""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

PLAN = """seed = 0
models = ["toy"]
methods = ["grad_cam", "lafam", "occlusion"]
metrics = ["fidelity", "pointing_game", "compactness"]

[data]
name = "scenes"
split = "multi"
n = 40

[published]
source = "A paper, table 1"
[published.toy.grad_cam]
pointing_game = 0.9
"""
METHODS = {"grad_cam": "Grad-CAM", "lafam": "LaFAM", "occlusion": "Occlusion <b>"}
METRICS = [
    {
        "label": "fidelity",
        "name": "fidelity",
        "title": "Fidelity",
        "property": "faithfulness",
        "summary": "…",
        "higher_is_better": True,
        "citation": "A & B, eq. 1",
        "parts": {"mif": False},
        "options": {"n_steps": 4},
        "axis": [0, 25, 50, 75, 100],
        "axis_title": "% of the pixels",
    },
    {
        "label": "pointing_game",
        "name": "pointing_game",
        "title": "Pointing Game",
        "property": "localization",
        "higher_is_better": True,
        "options": {"ties": "share"},
    },
    {
        "label": "compactness",
        "name": "compactness",
        "title": "Compactness",
        "property": "complexity",
        "higher_is_better": None,
    },
]
TRUTH = {"grad_cam": 1.0, "lafam": 0.98, "occlusion": 0.0}


def write(
    folder: Path,
    n: int = 40,
    per_image: int = 2,
    seed: int = 0,
    shift: float = 0.0,
    odd: str = "<script>alert(1)",
    plan: str = PLAN,
    models: tuple[str, ...] = ("toy",),
    methods: dict[str, str] = METHODS,
) -> Path:
    """`n` images with `per_image` maps each; Grad-CAM and LaFAM are level in fidelity, Occlusion is far behind."""
    random = np.random.default_rng(seed)
    samples = [odd if i == 1 else f"img_{i:04d}" for i in range(n)]
    hard = random.normal(size=n)  # what all maps of an image share
    rows = {
        name: []
        for name in (
            "model",
            "data",
            "split",
            "sample",
            "index",
            "target",
            "entry",
            "method",
            "metric",
            "value",
            "seconds",
            "error",
            "curve",
            "passes",
        )
    }
    maps = {name: [] for name in ("model", "sample", "entry", "method", "rows", "cols", "map")}
    for model in models:
        for i, sample in enumerate(samples):
            for t in range(per_image):
                entry = f"{sample}#{t}"
                for k, method in enumerate(methods):
                    level = TRUTH.get(method, -k / 10) + shift
                    noise = random.normal(scale=0.3)
                    curve = (np.linspace(1, 0, 5) * (1 + level) + hard[i]).tolist()
                    values = {
                        "fidelity": (level + hard[i] + noise, None),
                        "fidelity.mif": (1 - level + noise, curve),
                        "pointing_game": (float(random.random() < 0.3 + 0.4 * level), None),
                        "compactness": (random.random(), None),
                    }
                    for metric, (value, curve) in values.items():
                        broken = i == 1 and method == "occlusion"
                        new = (
                            model,
                            "scenes",
                            "multi",
                            sample,
                            i,
                            str(t),
                            entry,
                            method,
                            metric,
                            None if broken else value,
                            0.01,
                            "the map holds NaN" if broken else None,
                            curve,
                            5.0,
                        )
                        for column, item in zip(rows.values(), new, strict=True):
                            column.append(item)
                    patch = random.random((6, 8)).astype(np.float16)
                    patch[1 + t, 2 + t] = 4
                    for column, item in zip(
                        maps.values(), (model, sample, entry, method, 6, 8, patch.tobytes()), strict=True
                    ):
                        column.append(item)
    for column, item in zip(
        rows.values(),
        ("toy", "scenes", "multi", "", -1, "", "", "cdam", "", None, None, "needs tokens", None, None),
        strict=True,
    ):
        column.append(item)
    for sub in ("rows", "maps", "images"):
        (folder / sub).mkdir(parents=True, exist_ok=True)
    pq.write_table(
        pa.table({**rows, "curve": pa.array(rows["curve"], pa.list_(pa.float64()))}), folder / "rows" / "part.parquet"
    )
    pq.write_table(pa.table(maps), folder / "maps" / "part.parquet")
    images = [_draw_image(i) for i in range(n)]
    pq.write_table(
        pa.table(
            {
                "model": [models[0]] * n,
                "sample": samples,
                "jpeg": [p[0] for p in images],
                "mask": [p[1] for p in images],
            }
        ),
        folder / "images" / "part.parquet",
    )
    manifest = {
        "versions": {"seewhy": "0.1", "torch": "2.13"},
        "seed": 0,
        "hardware": {"device": "cpu"},
        "data": {"name": "scenes", "split": "multi"},
        "models": [{"name": m, "device": "cpu"} for m in models],
        "methods": [
            {"label": m, "name": m, "title": t, "citation": "X", "options": {}, "cost": "1 forward", "passes": 1}
            for m, t in methods.items()
        ],
        "metrics": METRICS,
        "skipped": [{"model": "toy", "method": "cdam", "reason": "needs tokens; these can: lafam"}],
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / "plan.toml").write_text(plan)
    return folder


def _draw_image(i: int) -> tuple[bytes, bytes]:
    rows, cols = np.mgrid[:72, :96]
    rgb = np.stack([rows * 3, cols * 2, np.full_like(rows, (i * 37) % 255)], -1).astype(np.uint8)
    mask = (abs(rows - 24) < 10) & (abs(cols - 40) < 14)
    found = []
    for image, kind in ((Image.fromarray(rgb), "jpeg"), (Image.fromarray(mask), "png")):
        buffer = BytesIO()
        image.save(buffer, kind)
        found.append(buffer.getvalue())
    return found[0], found[1]
