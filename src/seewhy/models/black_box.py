"""A plain function from images to scores as a model: an ONNX Runtime session, a server, anything that answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from seewhy.errors import LayoutError, ModelError, OptionError, UnknownNameError
from seewhy.models.adapter import PreprocessFunction, VisionModel
from seewhy.models.class_names import ClassNames, read_class_names
from seewhy.models.infer.outputs import Reader
from seewhy.models.structure import ReadOutput, Structure
from seewhy.targets import Output


def wrap_function(
    fn: Callable[[Any], Any],
    *,
    classes: int | None = None,
    class_names: ClassNames | None = None,
    preprocess: PreprocessFunction | None = None,
    output: str = "logits",
    takes: str = "tensor",
    batch_size: int | None = None,
    multi_label: bool = False,
    device: torch.device | str = "cpu",
    name: str = "",
) -> VisionModel:
    """Make a function that only answers explainable: methods that need no look inside work (RISE, occlusion, RELAX).

        session = onnxruntime.InferenceSession("model.onnx")
        model = wrap_function(lambda images: session.run(None, {"input": images})[0], takes="numpy")

    Args:
        fn: From a batch (B, channels, rows, cols), float32, to (B, classes) scores or (B, dim) embeddings, as a tensor
            or anything that numpy understands. It gets a copy, which it may change.
        classes: How many scores there are, so that a class out of range is found before any pass.
        class_names: A list, a dict from index to name, or a text file with a name on each line.
        preprocess: From a PIL image to (channels, rows, cols); default: ImageNet's (see `seewhy.core.preprocess`).
        output: What `fn` returns: "logits", "probabilities" (they become logits by the logarithm), or "embedding".
        takes: What `fn` is called with, a "tensor" on `device` or a "numpy" array.
        batch_size: The most images that `fn` takes at a time; None: any number.
        multi_label: Whether each score stands for itself (sigmoid).
        device: Where batches are made and tensors handed over.
        name: For messages and manifests; default: the function's.

    Raises:
        ModelError: It is not a function.
        OptionError: The class names do not fit, or the batch size is below one.
        UnknownNameError: There is no such `output` or `takes`.
    """
    if not callable(fn):
        raise ModelError(f"wrap_function takes a function, not {type(fn).__name__}; for names and files use load_model")
    if output not in READ:
        raise UnknownNameError("output", output, READ)
    if takes not in ("tensor", "numpy"):
        raise UnknownNameError("form of images", takes, ("tensor", "numpy"))
    if batch_size is not None and batch_size < 1:
        raise OptionError(f"batch_size={batch_size} is too small; use 1 or more")
    names = read_class_names(class_names)
    if names and classes not in (None, len(names)):
        raise OptionError(f"{len(names)} class names for {classes} classes; give one for each")
    has_logits = output != "embedding"
    structure = Structure(
        source="function",
        read=Reader("log_odds") if multi_label and output == "probabilities" else READ[output],
        has_logits=has_logits,
        has_embedding=not has_logits,
        has_gradients=False,
        classes=classes,
        multi_label=multi_label,
    )
    module = _Function(fn, takes, batch_size, device)
    return VisionModel(
        module,
        structure,
        name=name or getattr(fn, "__name__", type(fn).__name__),
        preprocess=preprocess,
        class_names=names,
    )


class _Function(nn.Module):
    """The function as a module: it hands over copies and takes anything that is a matrix of numbers."""

    def __init__(
        self, fn: Callable[[Any], Any], takes: str, batch_size: int | None, device: torch.device | str
    ) -> None:
        super().__init__()
        # hooks do not go with TorchScript, so it is kept as a plain function, not as a part of this module
        self.function = fn.forward if isinstance(fn, torch.jit.ScriptModule) else fn
        self._takes = takes
        self._batch_size = batch_size
        self.register_buffer("place", torch.empty(0, device=device), persistent=False)

    def forward(self, x: Float[Tensor, "batch channels rows cols"]) -> Float[Tensor, "batch numbers"]:
        """Ask the function, in parts that it can take."""
        return torch.cat([self._answer(part) for part in x.split(self._batch_size or len(x))])

    def _answer(self, x: Tensor) -> Tensor:
        images = x.detach().clone()
        raw = self.function(images.cpu().numpy() if self._takes == "numpy" else images)
        values = raw.detach() if isinstance(raw, Tensor) else _as_tensor(raw)
        if values.ndim < 2 or len(values) != len(x):
            raise LayoutError(
                f"the function returns shape {tuple(values.shape)} for {len(x)} images; "
                f"make it return ({len(x)}, numbers)"
            )
        values = values.flatten(1).to(x.device)
        return values if values.is_floating_point() else values.float()


def _as_tensor(raw: Any) -> Tensor:
    try:
        return torch.from_numpy(np.array(raw))
    except (TypeError, ValueError):
        raise LayoutError(
            f"the function returns {type(raw).__name__}, not an array of numbers; make it return (images, numbers)"
        ) from None


def _embedding(raw: Tensor, _: Tensor | None) -> Output:
    return Output(embedding=raw)


READ: dict[str, ReadOutput] = {
    "logits": Reader("logits"),
    "probabilities": Reader("logs"),
    "embedding": _embedding,
}
