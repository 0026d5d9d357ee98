"""Train a linear classifier on the embeddings of a frozen backbone, as the CDAM paper does (§4.1.1)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from numpy import ndarray
from torch import Tensor, nn
from torch.nn import functional as F

from seewhy.core.io import atomic_file
from seewhy.core.preprocess import Preprocess
from seewhy.core.progress import Progress, no_progress
from seewhy.core.tensor_files import save_tensors
from seewhy.data.base import Dataset
from seewhy.errors import OptionError
from seewhy.models.adapter import VisionModel
from seewhy.models.fingerprint import fingerprint
from seewhy.training.features import Features, cached_features
from seewhy.training.history import History
from seewhy.training.splits import check_classes, stratified_parts
from seewhy.training.task import Draw, Task
from seewhy.training.trainer import fit

HEAD = "head.safetensors"


@dataclass(frozen=True)
class TrainedHead:
    """A head that was trained.

    Attributes:
        path: Its file, for `load_model(backbone, head=path)`.
        history: Of the training.
        class_names: In the order of its outputs.
        left_out: Samples that could not be used, by id, and why.
    """

    path: Path
    history: History
    class_names: tuple[str, ...]
    left_out: dict[str, str]


def train_head(
    model: VisionModel,
    data: Dataset,
    *,
    out: str | Path,
    validation: Dataset | float | None = None,
    epochs: int = 10,
    batch_size: int = 128,
    lr: float = 3e-4,
    optimizer: str = "adam",
    weight_decay: float = 0.0,
    views: int = 0,
    patience: int | None = None,
    seed: int = 0,
    cache: str | Path | None = None,
    workers: int = 0,
    resume: bool = False,
    progress: Progress = no_progress,
) -> TrainedHead:
    """Train a linear classifier on a frozen backbone; the defaults are those of the CDAM paper, without its crops.

    The paper crops and mirrors anew in each epoch; `views=10` does so for ten epochs, at ten times the forward passes.

    Args:
        model: The backbone; a classifier that it has is replaced.
        data: What it learns: samples of one class each; others are left out.
        out: Folder that gets `head.safetensors`, `head.json`, the log, and `features/`.
        validation: Measured after each epoch (loss, accuracy, top-5 accuracy): a dataset, or the share of `data` that
            is held back, of each class alike.
        epochs: How often each sample is seen.
        batch_size: Samples per step.
        lr: Learning rate.
        optimizer: "adam", "adamw" or "sgd".
        weight_decay: Of the optimizer.
        views: Random crops and flips of each image, one of which is drawn whenever it is seen; 0: the whole image.
        patience: With validation data, epochs without a smaller loss after which training stops; None: never.
        seed: Of everything random.
        cache: Where features are kept; default: in `out`.
        workers: Processes that read images.
        resume: Whether to continue a run in `out`.
        progress: Reports the images of which features are computed.

    Raises:
        DataError: All samples are of one class, or none can be used, or validation data have other classes.
        SeewhyError: As `fit`.
    """
    folder = Path(out).expanduser()
    store = Path(cache) if cache is not None else folder / "features"
    learned = cached_features(model, data, store, views=views, workers=workers, seed=seed, progress=progress)
    names, usable = data.class_names, learned.usable
    check_classes(learned.labels[usable], names, "training data")
    held: FeatureData | None = None
    if isinstance(validation, int | float):
        share = 1 - validation
        first, rest = stratified_parts(learned.labels[usable], [share, validation], seed)
        plain = learned if views == 0 else cached_features(model, data, store, workers=workers, progress=progress)
        usable, held = usable[first], FeatureData(plain, usable[rest])
    elif validation is not None:
        if validation.class_names != names:
            raise OptionError("training and validation data have other classes; pass classes= to both")
        measured = cached_features(model, validation, store, workers=workers, progress=progress)
        held = FeatureData(measured, measured.usable)
    backbone = fingerprint(model.module)
    task = HeadTask(learned.values.shape[-1], len(names), seed, backbone)
    history = fit(
        task,
        FeatureData(learned, usable),
        out=folder,
        epochs=epochs,
        batch_size=batch_size,
        validation=held,
        optimizer=optimizer,
        lr=lr,
        weight_decay=weight_decay,
        patience=patience,
        seed=seed,
        device=model.device,
        resume=resume,
    )
    info = {
        "kind": "linear head",
        "class_names": list(names),
        "backbone": backbone,
        "model": model.name,
        "preprocess": model.preprocess.to_dict() if isinstance(model.preprocess, Preprocess) else None,
        "figures": history.best_line,
    }
    save_tensors(folder / HEAD, task.module.state_dict(), info)
    with atomic_file(folder / "head.json") as draft:
        draft.write_text(json.dumps(info, indent=1, ensure_ascii=False) + "\n", "utf-8")
    return TrainedHead(folder / HEAD, history, names, learned.left_out)


class FeatureData:
    """Cached features as training data.

    Args:
        features: Of a dataset.
        indices: Which of its samples.
    """

    def __init__(self, features: Features, indices: Int[ndarray, " m"]) -> None:
        self.features, self.indices = features, indices

    def __len__(self) -> int:
        return len(self.indices)

    def name(self, index: int) -> str:
        """Return the sample's id."""
        return self.features.names[int(self.indices[index])]

    def batch(self, indices: Sequence[int], draw: Draw | None) -> dict[str, Tensor]:
        """Return features and labels; of several views of a sample, one by chance."""
        rows, views = self.indices[list(indices)], len(self.features.values)
        chosen: Any = 0
        if draw is not None and views > 1:
            chosen = [int(draw(i).integers(views)) for i in indices]
        return {
            "x": torch.from_numpy(np.array(self.features.values[chosen, rows])),
            "y": torch.from_numpy(self.features.labels[rows].astype(np.int64)),
        }


class HeadTask(Task):
    """A linear classifier with cross-entropy.

    Args:
        inputs: Width of the embedding.
        classes: How many.
        seed: Of its first weights, which are drawn as torch's `nn.Linear` draws them.
        backbone: Fingerprint of the backbone.
    """

    def __init__(self, inputs: int, classes: int, seed: int, backbone: str) -> None:
        with torch.random.fork_rng([]):
            torch.manual_seed(seed)
            self.module = nn.Linear(inputs, classes)
        self.backbone = backbone

    def loss(self, batch: Mapping[str, Tensor], epoch: int) -> dict[str, Tensor]:
        """Return cross-entropy and accuracy."""
        logits = self.module(batch["x"])
        right = (logits.detach().argmax(1) == batch["y"]).float().mean()
        return {"loss": F.cross_entropy(logits, batch["y"]), "accuracy": right}

    def evaluate(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return each sample's cross-entropy, and whether its class is the first, and among the first five."""
        logits = self.module(batch["x"])
        ranked = logits.topk(min(5, logits.shape[1]), dim=1).indices == batch["y"][:, None]
        loss = F.cross_entropy(logits, batch["y"], reduction="none")
        return {"loss": loss, "accuracy": ranked[:, 0].float(), "top5": ranked.any(1).float()}

    def describe(self) -> dict[str, Any]:
        """Return the backbone."""
        return {"backbone": self.backbone}
