"""Fine-tune the last blocks of a backbone to tell classes apart or to measure quantities (CDAM paper, §5 and A.5.2)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from numpy import ndarray
from torch import Tensor, nn
from torch.nn import functional as F

from seewhy.core.io import atomic_file, json_default
from seewhy.core.preprocess import Preprocess
from seewhy.core.tensor_files import save_tensors
from seewhy.data.base import Dataset
from seewhy.errors import OptionError
from seewhy.models.adapter import VisionModel
from seewhy.models.finetuned import KIND, WEIGHTS, with_outputs
from seewhy.models.fingerprint import fingerprint
from seewhy.training.history import History
from seewhy.training.samples import Answers, ImageData, read_answers
from seewhy.training.schedules import SCHEDULES, Exponential, Schedule
from seewhy.training.scores import class_scores, regression_scores
from seewhy.training.splits import balanced, check_classes, stratified_folds, stratified_parts
from seewhy.training.task import Task
from seewhy.training.trainer import fit

SHARES = (0.7225, 0.1275, 0.15)
"""Of training, validation and test in the CDAM paper (§5.1)."""

LOSSES = ("mse", "huber")
BALANCE = ("drop", "weights")


@dataclass(frozen=True)
class FineTuneSettings:
    """How a model is fine-tuned; the defaults are those of the CDAM paper (§5.1) where it says them.

    Attributes:
        blocks: How many of the last blocks (of a CNN: stages) are trained, with all that comes behind them; None: all;
            0: the head alone. The paper trained "50 layers" of a ViT-S: four blocks of twelve weights and biases each
            and the last norm are 50 tensors.
        dropout: Set in all dropout layers of the backbone while it is trained.
        epochs: At most.
        batch_size: Samples per step.
        lr: Learning rate α.
        decay: β: the rate in epoch e is αβᵉ; with a `schedule` of another kind it does not count.
        schedule: "exponential", "constant", "cosine" or "cyclic" (A.5.2).
        optimizer: "adam", "adamw" or "sgd".
        weight_decay: Of the optimizer.
        loss: Of quantities, "mse" (§5.2) or "huber" (A.5.2), in units of their spread.
        balance: Of classes: "drop" leaves out what the rarest class has less, "weights" weighs the losses; None: as is.
        augment: See `ImageData`.
        patience: Epochs without a smaller validation loss after which training stops; None: never.
        precision: "32", "bf16" or "16".
        accumulate: Into how many parts a batch is cut, to save memory.
        devices: How many GPUs, or processes, take part.
        workers: Processes that read images.
        seed: Of everything random.
    """

    blocks: int | None = 4
    dropout: float = 0.003
    epochs: int = 50
    batch_size: int = 32
    lr: float = 3e-4
    decay: float = 0.95
    schedule: str = "exponential"
    optimizer: str = "adam"
    weight_decay: float = 0.0
    loss: str = "mse"
    balance: str | None = "drop"
    augment: tuple[str, ...] = ("flip",)
    patience: int | None = 5
    precision: str = "32"
    accumulate: int = 1
    devices: int = 1
    workers: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        choices = {"loss": LOSSES, "balance": (None, *BALANCE), "schedule": tuple(SCHEDULES)}
        for name, accepted in choices.items():
            if getattr(self, name) not in accepted:
                words = ", ".join(map(str, accepted))
                raise OptionError(f"{name}={getattr(self, name)!r} is not accepted; choose from {words}")
        if not 0 <= self.dropout < 1:
            raise OptionError(f"dropout={self.dropout} must be at least 0 and below 1")

    def rates(self) -> Schedule:
        """Return the schedule of the learning rate."""
        return Exponential(self.decay) if self.schedule == "exponential" else SCHEDULES[self.schedule]()


@dataclass(frozen=True)
class FineTuned:
    """A model that was fine-tuned.

    Attributes:
        model: It, in eval mode.
        folder: Where it lies, for `load_model(folder)`.
        history: Of the training.
        figures: Of the best epoch on the validation data, and on test data as `test …`.
        test: Numbers of the samples of the dataset that it was tested on.
        left_out: Samples that could not be used, by id, and why.
    """

    model: VisionModel
    folder: Path
    history: History
    figures: dict[str, float]
    test: list[int]
    left_out: dict[str, str]


def finetune(
    model: VisionModel,
    data: Dataset,
    *,
    out: str | Path,
    quantities: Sequence[str] = (),
    shares: Sequence[float] = SHARES,
    settings: FineTuneSettings | None = None,
    base: Mapping[str, Any] | None = None,
    resume: bool = False,
    progress: bool = False,
) -> FineTuned:
    """Fine-tune a copy of a model; the one that was passed stays as it is.

    Args:
        model: The backbone; a classifier that it has is replaced.
        data: Samples of one class each, or with quantities in `about`.
        out: Folder that gets `model.safetensors`, `model.json`, the checkpoint and the log.
        quantities: What is measured (multi-output regression); none: the classes are learned.
        shares: Of training, validation and test, of each class alike.
        settings: Everything else.
        base: How the model was opened (`name`, `architecture`, `options`, `size`), so that `load_model(out)` can.
        resume: Whether to continue a run in `out`.
        progress: Whether to show a bar.

    Raises:
        DataError: All samples are of one class, or none can be used.
        UnknownNameError: No sample has such a quantity.
        SeewhyError: As `fit`.
    """
    answers = read_answers(data, quantities)
    seed = (settings or FineTuneSettings()).seed
    if len(shares) != 3:
        raise OptionError("shares are those of training, validation and test; write three numbers")
    parts = stratified_parts(answers.labels, shares, seed)
    return _finetune(model, data, answers, parts, Path(out), settings or FineTuneSettings(), base, resume, progress)


@dataclass(frozen=True)
class Folds:
    """The models of a cross-validation.

    Attributes:
        folds: One for each fold, measured on it.
        mean: The mean of each figure over the folds.
        std: Its standard deviation over the folds (n − 1).
    """

    folds: tuple[FineTuned, ...]
    mean: dict[str, float]
    std: dict[str, float]


def cross_validate(
    model: VisionModel,
    data: Dataset,
    *,
    out: str | Path,
    folds: int = 5,
    quantities: Sequence[str] = (),
    settings: FineTuneSettings | None = None,
    base: Mapping[str, Any] | None = None,
    resume: bool = False,
    progress: bool = False,
) -> Folds:
    """Fine-tune one model for each of k stratified folds, on all other folds; each is measured on its fold.

    As in the paper (A.5.2) the fold is also what early stopping looks at, so the figures are a little too good.

    Args:
        model: The backbone.
        data: The samples.
        out: Folder that gets `fold-1` …, and `folds.json`.
        folds: How many.
        quantities: See `finetune`.
        settings: See `finetune`.
        base: See `finetune`.
        resume: Whether to continue: folds that are finished are read, not trained again.
        progress: Whether to show a bar.

    Raises:
        SeewhyError: As `finetune`.
    """
    answers, chosen = read_answers(data, quantities), settings or FineTuneSettings()
    parts = stratified_folds(answers.labels, folds, chosen.seed)
    done = []
    for number, fold in enumerate(parts):
        rest = np.setdiff1d(np.arange(len(answers.labels)), fold)
        place = Path(out) / f"fold-{number + 1}"
        split = [rest, fold, np.arange(0)]
        done.append(_finetune(model, data, answers, split, place, chosen, base, resume, progress))
    names = done[0].figures
    table = {name: [each.figures[name] for each in done] for name in names}
    mean = {name: float(np.mean(values)) for name, values in table.items()}
    std = {name: float(np.std(values, ddof=1)) for name, values in table.items()}
    if done[0].history.leads:
        _write_json(Path(out) / "folds.json", {"folds": folds, "mean": mean, "std": std, "each": table})
    return Folds(tuple(done), mean, std)


def _finetune(
    model: VisionModel,
    data: Dataset,
    answers: Answers,
    parts: Sequence[Int[ndarray, " _"]],
    folder: Path,
    settings: FineTuneSettings,
    base: Mapping[str, Any] | None,
    resume: bool,
    progress: bool,
) -> FineTuned:
    folder = folder.expanduser()
    training, validation, test = parts
    if not answers.regression:
        check_classes(answers.labels[training], answers.names, "training data")
        if settings.balance == "drop":
            training = training[balanced(answers.labels[training], settings.seed)]
    copy = VisionModel(
        deepcopy(model.module), model.structure, name=model.name, preprocess=model.preprocess, class_names=None
    )
    tuned = with_outputs(copy, answers.names, regression=answers.regression, seed=settings.seed)
    task = FineTuneTask(tuned, settings, answers, training, fingerprint(model.module))

    def images(part: Int[ndarray, " _"], augment: tuple[str, ...] = ()) -> ImageData:
        return ImageData(data, answers, part, model.preprocess, augment)

    history = fit(
        task,
        images(training, settings.augment),
        out=folder,
        validation=images(validation) if len(validation) else None,
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        optimizer=settings.optimizer,
        lr=settings.lr,
        weight_decay=settings.weight_decay,
        schedule=settings.rates(),
        accumulate=settings.accumulate,
        precision=settings.precision,
        devices=settings.devices,
        device=model.device,
        patience=settings.patience,
        seed=settings.seed,
        resume=resume,
        workers=settings.workers,
        progress=progress,
    )
    figures = {k.removeprefix("val_"): v for k, v in history.best_line.items() if k.startswith("val_")}
    if len(test):
        tested = task.measure(images(test), settings.batch_size)
        figures |= {f"test {name}": value for name, value in tested.items()}
    task.finish()
    info = {
        "kind": KIND,
        "outputs": list(answers.names),
        "regression": answers.regression,
        "model": model.name,
        "base": dict(base) if base else None,
        "preprocess": model.preprocess.to_dict() if isinstance(model.preprocess, Preprocess) else None,
        "settings": vars(settings),
        "figures": figures,
    }
    if history.leads:
        save_tensors(folder / WEIGHTS, tuned.module.state_dict(), info)
        _write_json(folder / "model.json", info)
    numbers = [int(answers.indices[i]) for i in test]
    return FineTuned(tuned, folder, history, figures, numbers, answers.left_out)


class FineTuneTask(Task):
    """Classes with cross-entropy, two classes with one logit, quantities with squared or Huber errors.

    Args:
        model: With its new head.
        settings: How it is trained.
        answers: What is learned.
        training: Which of the answers belong to the training data: their spread is the unit of quantities.
        backbone: Fingerprint of the backbone.
    """

    def __init__(
        self,
        model: VisionModel,
        settings: FineTuneSettings,
        answers: Answers,
        training: Int[ndarray, " m"],
        backbone: str,
    ) -> None:
        self.model, self.module = model, model.module
        self.settings, self.answers, self.backbone = settings, answers, backbone
        self.trained = trained_parameters(model, settings.blocks)
        for name, parameter in self.module.named_parameters():
            parameter.requires_grad_(name in self.trained)
        self._set_dropout(settings.dropout)
        values = answers.values[training]
        spread = values.std(0)
        self.center = torch.from_numpy(values.mean(0))
        self.scale = torch.from_numpy(np.where(spread > 0, spread, 1).astype(np.float32))
        self.weights: Tensor | None = None
        if settings.balance == "weights" and not answers.regression:
            counts = np.bincount(answers.labels[training], minlength=len(answers.names))
            self.weights = torch.from_numpy((len(training) / (len(counts) * np.maximum(counts, 1))).astype(np.float32))

    def _set_dropout(self, rate: float) -> None:
        layers = [m for m in self.module.modules() if isinstance(m, nn.Dropout)]
        if rate and not layers:
            raise OptionError(f"{self.model.name} has no dropout layers; use dropout=0")
        for layer in layers:
            layer.p = rate

    def start_epoch(self, epoch: int) -> None:
        """Keep the running means of frozen batch norms."""
        for part in self.module.modules():
            if isinstance(part, nn.modules.batchnorm._BatchNorm) and part.weight is not None:
                part.train(part.training and part.weight.requires_grad)

    def loss(self, batch: Mapping[str, Tensor], epoch: int) -> dict[str, Tensor]:
        """Return the mean loss."""
        losses = self._losses(self._outputs(batch["x"]), batch)
        if self.weights is None:
            return {"loss": losses.mean()}
        return {"loss": (losses * self.weights.to(losses.device)[batch["label"]]).mean()}

    def evaluate(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return each sample's loss, answer and prediction."""
        outputs = self._outputs(batch["x"])
        found = {"loss": self._losses(outputs, batch), "label": batch["label"], "y": batch["y"]}
        if self.answers.regression:
            return {**found, "predicted": outputs * self.scale.to(outputs) + self.center.to(outputs)}
        probabilities = outputs.sigmoid() if len(self.answers.names) == 2 else outputs.softmax(1)
        return {**found, "predicted": probabilities}

    def metrics(self, values: Mapping[str, Tensor]) -> dict[str, float]:
        """Return the loss, and accuracy and AUC or the squared errors."""
        arrays = {name: value.double().numpy() for name, value in values.items()}
        figures = {"loss": float(arrays["loss"].mean())}
        if self.answers.regression:
            scale = self.scale.double().numpy()
            return figures | regression_scores(arrays["predicted"], arrays["y"], scale, self.answers.names)
        return figures | class_scores(arrays["predicted"], values["label"].numpy(), self.answers.names)

    def measure(self, data: ImageData, batch_size: int) -> dict[str, float]:
        """Measure the finished model."""
        self.module.eval()
        found: list[dict[str, Tensor]] = []
        for start in range(0, len(data), batch_size):
            batch = data.batch(range(start, min(start + batch_size, len(data))), None)
            with torch.no_grad():
                values = self.evaluate({name: value.to(self.model.device) for name, value in batch.items()})
            found.append({name: value.cpu() for name, value in values.items()})
        return self.metrics({name: torch.cat([part[name] for part in found]) for name in found[0]})

    def finish(self) -> None:
        """Put the units of the quantities into the head, so that the model gives them."""
        self._set_dropout(0.0)
        if self.answers.regression:
            head = self.module.get_submodule(str(self.model.structure.head))
            scale, center = self.scale.to(head.weight), self.center.to(head.weight)  # type: ignore[arg-type]
            with torch.no_grad():
                head.weight.mul_(scale[:, None])  # type: ignore[operator]
                head.bias.mul_(scale).add_(center)  # type: ignore[operator]
            self.scale, self.center = torch.ones_like(self.scale), torch.zeros_like(self.center)
        self.module.requires_grad_(False).eval()

    def describe(self) -> dict[str, Any]:
        """Return what a checkpoint must have in common with this task."""
        kept = ("blocks", "dropout", "loss", "balance", "augment")
        return {
            "backbone": self.backbone,
            "outputs": list(self.answers.names),
            "regression": self.answers.regression,
            **{name: getattr(self.settings, name) for name in kept},
        }

    def _outputs(self, x: Tensor) -> Tensor:
        logits = self.model.run(x).logits
        assert logits is not None  # the model has a head
        return logits.float()

    def _losses(self, outputs: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        if self.answers.regression:
            target = (batch["y"] - self.center.to(outputs)) / self.scale.to(outputs)
            loss = F.mse_loss if self.settings.loss == "mse" else F.huber_loss
            return loss(outputs, target, reduction="none").mean(1)
        if len(self.answers.names) == 2:  # logits -z and z of one output
            target = batch["label"].to(outputs.dtype)
            return F.binary_cross_entropy_with_logits(outputs[:, 1], target, reduction="none")
        return F.cross_entropy(outputs, batch["label"], reduction="none")


def trained_parameters(model: VisionModel, blocks: int | None) -> set[str]:
    """Return the names of the parameters of the last blocks and of all that comes behind them.

    Args:
        model: With its head.
        blocks: How many blocks, of a CNN stages; None: all parameters; 0: those of the head.

    Raises:
        OptionError: There are fewer.
    """
    names = [name for name, _ in model.module.named_parameters()]
    head = {name for name in names if name.startswith(f"{model.structure.head}.")}
    if blocks is None:
        return set(names)
    if blocks == 0:
        return head
    found = [block.name for block in model.structure.blocks] or [layer.name for layer in model.structure.stages]
    if blocks > len(found):
        raise OptionError(f"{model.name} has {len(found)} blocks, not {blocks}; use at most those, or all (None)")
    first = found[-blocks]
    start = next((i for i, name in enumerate(names) if name.startswith(f"{first}.")), None)
    if start is None:
        raise OptionError(f"the block {first!r} of {model.name} has no weights; train all (None)")
    return set(names[start:]) | head


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    with atomic_file(path) as draft:
        draft.write_text(json.dumps(content, indent=1, ensure_ascii=False, default=json_default) + "\n", "utf-8")
