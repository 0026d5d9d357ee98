"""Base of trained explainers: weights in, checked against the encoder, and out again."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from jaxtyping import Float
from torch import Tensor, nn

from seewhy.core.io import first_line
from seewhy.errors import OptionError, RequirementError, SeewhyError, WeightsError
from seewhy.methods.base import Method, option
from seewhy.methods.trained.fitted import Fitted
from seewhy.methods.trained.lora import PREFIX
from seewhy.models.adapter import VisionModel
from seewhy.models.structure import Structure
from seewhy.targets import Output, Target

WeightsLike = Any
"""A folder of `seewhy train`, one of its files, or a `Fitted`."""


@dataclass(kw_only=True, eq=False)
class TrainedMethod(Method):
    """A method whose networks are fitted to a model's features before they explain it.

    The map is that of a classifier of its own (`classifier`), which was trained on the frozen encoder; it does not
    depend on a target. Encoder and map belong together: other weights are refused.
    """

    weights: WeightsLike = option(default=None, help="the folder that `seewhy train` wrote")
    verify: bool = option(
        default=True, help="refuse an encoder with other weights; False: another architecture only (randomization)"
    )
    networks: ClassVar[type]
    """The class of the settings of its networks."""

    def setup(self) -> None:
        """Read the weights, check that they are of this encoder, and build the networks."""
        name = self.card.name
        if self.weights is None:
            raise RequirementError(
                f"{self.card.title} is trained before it explains: `seewhy train {name} PLAN -o RUN`, then weights=RUN "
                f"(--weights RUN)"
            )
        if not isinstance(self.weights, (str, os.PathLike, Fitted)):
            raise OptionError(f"weights={self.weights!r} must be the folder that `seewhy train {name}` wrote")
        self.fitted = self.weights if isinstance(self.weights, Fitted) else Fitted.load(self.weights)
        if self.fitted.method != name:
            raise WeightsError(f"{self.fitted} is of {self.fitted.method}, not of {name}; use that method")
        self.fitted.encoder.check(self.model, self.fitted, weights=self.verify)
        try:
            self.settings: Any = self.networks(**self.fitted.settings)
            with torch.random.fork_rng(devices=[]):  # layers draw weights before they get theirs
                self.net: Any = self.build(self.settings, self.fitted.shape, len(self.fitted.classes))
            own = {key: value for key, value in self.fitted.state.items() if not key.startswith(PREFIX)}
            self.net.load_state_dict(own)
            self.prepare()
        except (SeewhyError, RuntimeError, KeyError, TypeError, ValueError) as error:
            reason = first_line(error, 120)
            raise WeightsError(f"{self.fitted} does not fit its own networks ({reason}); fit it again") from None
        self.net.eval().requires_grad_(False)
        self._deltas = {key: value for key, value in self.fitted.state.items() if key.startswith(PREFIX)}

    @staticmethod
    def build(settings: Any, shape: dict[str, Any], classes: int) -> nn.Module:
        """Return the networks with random weights.

        Args:
            settings: Of the class `networks`.
            shape: What they have of the encoder.
            classes: Number of classes.
        """
        raise NotImplementedError

    def prepare(self) -> None:
        """Settle the layer that is read."""

    def classify(self, x: Tensor) -> Float[Tensor, "batch classes"]:
        """Return the logits of the classifier that the map is of, in the caller's grad mode."""
        raise NotImplementedError

    def attend(self, x: Tensor) -> Float[Tensor, "batch rows cols"]:
        """Return the maps."""
        raise NotImplementedError

    def compute(self, x: Tensor, target: Target) -> Float[Tensor, "batch rows cols"]:
        """Compute the maps; the target is left aside."""
        with self.adapted(x):
            return self.attend(x)

    def adapted(self, x: Tensor) -> AbstractContextManager[None]:
        """In the block, the networks are where the batch is, and the encoder has what else was trained."""
        self.net.to(x.device, x.dtype)
        self._deltas = {key: value.to(x.device, x.dtype) for key, value in self._deltas.items()}
        return self.deltas_applied()

    def deltas_applied(self) -> AbstractContextManager[None]:
        """In the block, the encoder has its LoRA deltas, if there are any."""
        return nullcontext()

    @property
    def classes(self) -> tuple[str, ...]:
        """What the classifier tells apart."""
        return self.fitted.classes

    @property
    def classifier(self) -> VisionModel:
        """The classifier that the map explains, as a model: for its answers, insertion and deletion, other methods."""
        structure = Structure(
            "seewhy",
            read=_read_logits,
            has_logits=True,
            has_embedding=False,
            has_gradients=self.model.structure.has_gradients,
            classes=len(self.classes),
        )
        module = _Classifier(self)
        name = f"{self.card.name} of {self.model.name}"
        return VisionModel(module, structure, name=name, preprocess=self.model.preprocess, class_names=self.classes)

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the fitted networks and deltas into a folder, without the encoder.

        Raises:
            SeewhyError: The folder cannot be written.
        """
        self.fitted.save(folder)

    @classmethod
    def load(cls, model: VisionModel, folder: str | os.PathLike[str]) -> Self:
        """Return the method of a folder; the same as `cls(model, weights=folder)`.

        Raises:
            WeightsError: It is none, or of another encoder.
        """
        return cls(model, weights=folder)


class _Classifier(nn.Module):
    def __init__(self, method: TrainedMethod) -> None:
        super().__init__()
        self.encoder = method.model.module
        self.net = method.net
        self._method = [method]  # not a module
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        (method,) = self._method
        with method.adapted(x):
            return method.classify(x)


def _read_logits(raw: Any, embedding: Tensor | None) -> Output:
    return Output(logits=raw)


def fitted_state(net: nn.Module, deltas: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a `Fitted`, in float32 on the CPU."""
    state = {**net.state_dict(), **deltas}
    return {
        key: value.detach().to("cpu", torch.float32 if value.is_floating_point() else value.dtype, copy=True)
        for key, value in state.items()
    }
