"""Fitting trained explainers: ALA and ABN on a frozen model, with the one trainer."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seewhy.errors import DataError, RequirementError, UnknownNameError
from seewhy.methods.base import METHODS
from seewhy.methods.trained.abn_net import ABNNet, ABNSettings
from seewhy.methods.trained.ala_net import ALANet, ALASettings
from seewhy.methods.trained.base import TrainedMethod, fitted_state
from seewhy.methods.trained.fingerprint import Fingerprint
from seewhy.methods.trained.fitted import Fitted
from seewhy.methods.trained.levels import read_levels
from seewhy.methods.trained.lora import lora_layers
from seewhy.models.adapter import VisionModel
from seewhy.models.instrument.swap import borrowed
from seewhy.training.history import History
from seewhy.training.labeled import LabeledImages
from seewhy.training.lora import LoRALayers
from seewhy.training.task import Batch, Task
from seewhy.training.trainer import fit


class ExplainerTask(Task):
    """A trained explainer as a task: cross-entropy of both branches.

    Args:
        model: The encoder.
        classes: What is told apart.

    Attributes:
        net: The networks.
        settings: Their settings.
        shape: What they have of the encoder.
    """

    net: Any
    settings: Any
    shape: dict[str, Any]

    def __init__(self, model: VisionModel, classes: Sequence[str]) -> None:
        self.model = model
        self.classes = tuple(classes)
        self.encoder = Fingerprint.of(model)

    def output(self, x: Tensor, epoch: int | None) -> Any:
        """Return logits, attention logits and attention.

        Args:
            x: The images.
            epoch: From 0; None: as for explaining.
        """
        raise NotImplementedError

    def holding(self) -> AbstractContextManager[None]:
        """In the block, the encoder is frozen and takes part in the training."""
        return borrowed(self.model.module, {})

    def deltas(self) -> dict[str, Tensor]:
        """Return LoRA's matrices."""
        return {}

    def loss(self, batch: Batch, epoch: int) -> dict[str, Tensor]:
        """Return CE(ŷ_PB, y) + λ CE(ŷ_attention, y), both cross-entropies and the share of right answers."""
        x, y = batch["image"], batch["label"]
        output = self.output(x, epoch)
        perception, attention = F.cross_entropy(output.logits, y), F.cross_entropy(output.attention_logits, y)
        return {
            "loss": perception + self.settings.attention_weight * attention,
            "perception": perception,
            "attention": attention,
            "accuracy": (output.logits.argmax(1) == y).float().mean(),
        }

    def evaluate(self, batch: Batch) -> dict[str, Tensor]:
        """Return, for each image, the perception branch's cross-entropy, its answer, and the mean of the map."""
        x, y = batch["image"], batch["label"]
        output = self.output(x, None)
        return {
            "loss": F.cross_entropy(output.logits.float(), y, reduction="none"),
            "accuracy": (output.logits.argmax(1) == y).float(),
            "attention_accuracy": (output.attention_logits.argmax(1) == y).float(),
            "attended": output.attention.float().flatten(1).mean(1),
        }

    def describe(self) -> dict[str, Any]:
        """Return what a checkpoint must have in common with this run."""
        return {"settings": asdict(self.settings), "encoder": self.encoder.as_dict(), "classes": list(self.classes)}

    def fitted(self, method: str, training: dict[str, Any]) -> Fitted:
        """Return what was trained.

        Args:
            method: The method's name.
            training: How, for people.
        """
        state = fitted_state(self.net, self.deltas())
        settings = asdict(self.settings)
        return Fitted(method, settings, self.shape, self.encoder, self.classes, state, training)


class _Trainee(nn.Module):
    def __init__(self, net: nn.Module, lora: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.lora = lora


class ALATask(ExplainerTask):
    """Attention Lattice Adapter, with the Alternating Epoch Architect and LoRA.

    Args:
        model: The encoder.
        classes: What is told apart.
        settings: Of the networks.
        x: A batch, for its sizes.
    """

    net: ALANet
    settings: ALASettings

    def __init__(self, model: VisionModel, classes: Sequence[str], settings: ALASettings, x: Tensor) -> None:
        super().__init__(model, classes)
        depth = len(model.structure.blocks)
        self.settings = settings
        layers = lora_layers(model, settings.adapted_blocks(depth)) if settings.lora_rank else {}
        self.layers = LoRALayers(layers, settings)
        with borrowed(model.module, {}), torch.no_grad():
            channels = read_levels(model, x, [depth])[depth].shape[1]
        image = (x.shape[1], x.shape[2], x.shape[3])
        self.shape = {"image": list(image), "channels": channels, "depth": depth}
        self.net = ALANet(settings, image, channels, depth, len(self.classes))
        self.module = _Trainee(self.net, self.layers.trained)
        self._needed = (*self.net.side.levels, depth)

    def holding(self) -> AbstractContextManager[None]:
        """In the block, the encoder is frozen and has its LoRA layers."""
        return borrowed(self.model.module, self.layers.replacements)

    def deltas(self) -> dict[str, Tensor]:
        """Return LoRA's matrices."""
        return self.layers.deltas()

    def is_even(self, epoch: int | None) -> bool:
        """Tell whether h_ALA is one everywhere; the paper counts epochs from 1."""
        return self.settings.alternate and epoch is not None and (epoch + 1) % 2 == 0

    def start_epoch(self, epoch: int) -> None:
        """Freeze the adapter in even epochs, and let it learn in odd ones."""
        for part in self.net.adapter:
            part.requires_grad_(not self.is_even(epoch))

    def output(self, x: Tensor, epoch: int | None) -> Any:
        """Return logits, attention logits and attention."""
        self.model.to(x.device)
        with torch.set_grad_enabled(torch.is_grad_enabled() and bool(self.layers.replacements)):
            features = read_levels(self.model, x, self._needed)
        return self.net(x, features, ones=self.is_even(epoch))


class ABNTask(ExplainerTask):
    """Attention Branch Network.

    Args:
        model: The encoder.
        classes: What is told apart.
        settings: Of the networks.
        x: A batch, for its sizes.
    """

    net: ABNNet
    settings: ABNSettings

    def __init__(self, model: VisionModel, classes: Sequence[str], settings: ABNSettings, x: Tensor) -> None:
        super().__init__(model, classes)
        self.settings = settings
        self.layer = model.layer(settings.layer)
        self.shape = {"layer": self.layer.name, "channels": self._features(x).shape[1]}
        self.net = ABNNet(settings, self.shape["channels"], len(self.classes))
        self.module = self.net

    def _features(self, x: Tensor) -> Tensor:
        return self.model.activations(x, [self.layer])[self.layer.name]

    def output(self, x: Tensor, epoch: int | None) -> Any:
        """Return logits, attention logits and attention."""
        self.model.to(x.device)
        return self.net(self._features(x))


TASKS: dict[str, tuple[Callable[..., ExplainerTask], type]] = {
    "ala": (ALATask, ALASettings),
    "abn": (ABNTask, ABNSettings),
}
"""By name of the method: its task, and the class of its settings."""


def fit_explainer(
    method: str,
    model: VisionModel,
    data: LabeledImages,
    *,
    validation: LabeledImages | None = None,
    networks: Mapping[str, Any] | None = None,
    out: str | Path | None = None,
    epochs: int = 20,
    batch_size: int = 8,
    lr: float = 5e-5,
    weight_decay: float = 1e-4,
    patience: int | None = 5,
    seed: int = 0,
    resume: bool = False,
    opened: Mapping[str, Any] | None = None,
    **options: Any,
) -> TrainedMethod:
    """Train an explainer on a frozen model, and return it as a method.

    The model leaves as it came: its weights are never written, and LoRA's layers are taken out again.

    Args:
        method: `ala` or `abn`.
        model: The encoder.
        data: What it learns from.
        validation: What the best epoch is chosen by (the perception branch's cross-entropy); without, the last stays.
        networks: Settings of the networks (`seewhy.methods.trained.ala_net.ALASettings`, `…abn_net.ABNSettings`).
        out: Folder for the checkpoint, the log, and the fitted explainer; None: a temporary one.
        epochs: At most.
        batch_size: Images per step.
        lr: Learning rate of AdamW (β = 0.9, 0.999).
        weight_decay: Of AdamW.
        patience: Epochs without gain after which training stops; None: never.
        seed: Of everything random.
        resume: Whether to continue from the checkpoint in `out`.
        opened: How the model was opened, for the record: `name` and the options of `load_model`. The command line opens
            it like that where no model is named.
        **options: Further options of `seewhy.training.fit` (`device`, `precision`, `workers`, `schedule` …).

    Raises:
        UnknownNameError: There is no trained method of that name.
        RequirementError: The model has no tokens or feature maps.
        OptionError: A setting does not exist or cannot be used.
        DataError: There are no samples, or the validation data tell other classes apart.
        NonFiniteError: The loss is no number.
        MissingExtraError: The extra `train` is not installed.
    """
    if method not in TASKS:
        raise UnknownNameError("trained method", method, TASKS)
    cls = METHODS[method]
    why = cls.why_incompatible(model)
    if why:
        raise RequirementError(f"{cls.card.title} cannot be fitted to {model.name}: {why}")
    if validation is not None and validation.classes != data.classes:
        raise DataError("training and validation data tell other classes apart; pass the same classes= to both")
    make, settings_class = TASKS[method]
    settings = settings_class(**(networks or {}))
    if not len(data):
        raise DataError("the training data have no samples; check the folder and its split")
    x = data.batch([0], None)["image"].to(model.device, model.dtype)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        task = make(model, data.classes, settings, x)
    place = model.device
    with tempfile.TemporaryDirectory() as spare, task.holding():
        try:
            history = fit(
                task,
                data,
                out=out or spare,
                epochs=epochs,
                batch_size=batch_size,
                validation=validation,
                optimizer="adamw",
                lr=lr,
                weight_decay=weight_decay,
                patience=patience,
                seed=seed,
                resume=resume,
                **options,
            )
        finally:
            model.to(place)
        record = _record(history, len(data), epochs, batch_size, lr, weight_decay, seed)
        fitted = task.fitted(method, {**record, "encoder": dict(opened or {})})
    if out is not None and history.leads:
        fitted.save(out)
    return cls(model, weights=fitted)  # type: ignore[return-value, call-arg]  # a class of TASKS is a trained method


def _record(
    history: History, samples: int, epochs: int, batch: int, lr: float, decay: float, seed: int
) -> dict[str, Any]:
    return {
        "samples": samples,
        "epochs": epochs,
        "batch_size": batch,
        "lr": lr,
        "weight_decay": decay,
        "seed": seed,
        "stopped": history.stopped,
        "best": history.best_line,
    }
