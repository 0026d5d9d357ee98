"""The same maps by other libraries, where they are installed: timed in the same run, wins and losses alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from seewhy.bench.speed.tasks import TimedTask
from seewhy.models.adapter import VisionModel

PEERS = ("captum", "grad-cam", "torchcam", "zennit")
"""Distributions of the libraries that are compared."""


def peer_tasks(model: VisionModel, x: Tensor) -> Iterator[TimedTask]:
    """Make tasks of the libraries that are installed and can serve the model.

    Args:
        model: The model; they get its module.
        x: The batch.

    Yields:
        The tasks, under seewhy's names of the methods.
    """
    for make in (_captum, _grad_cam, _torchcam, _zennit):
        with suppress(ImportError):
            yield from make(model, x)


def _layer(model: VisionModel) -> torch.nn.Module | None:
    """Return the layer of CAMs, where its output is (B, C, rows, cols): the form that all of them take."""
    layer = model.cam_layer()
    return model.submodule(layer.name) if layer.layout == "nchw" else None


def _captum(model: VisionModel, x: Tensor) -> Iterator[TimedTask]:
    attr: Any = import_module("captum.attr")
    net: Any = _Plain(model)

    def task(name: str, run: Callable[[], object], passes: int = 1) -> TimedTask:
        return TimedTask(name, run, passes=passes, maps=len(x), package="captum")

    def at_pixels(method: Any, **options: Any) -> Callable[[], object]:
        return lambda: method.attribute(x.clone().requires_grad_(), target=0, **options)

    yield task("saliency", at_pixels(attr.Saliency(net)))
    yield task("input_x_gradient", at_pixels(attr.InputXGradient(net)))
    path = at_pixels(attr.IntegratedGradients(net), n_steps=16, internal_batch_size=16)
    yield task("integrated_gradients", path, 16)
    windows = attr.Occlusion(net)
    yield task(
        "occlusion",
        at_pixels(windows, sliding_window_shapes=(3, 64, 64), strides=(3, 40, 40), perturbations_per_eval=25),
        25,
    )
    layer = _layer(model)
    if layer is not None:
        cam = attr.LayerGradCam(net, layer)
        yield task("grad_cam", lambda: cam.attribute(x, target=0))
        yield task("guided_backprop", at_pixels(attr.GuidedBackprop(net)))


class _Plain(torch.nn.Module):
    """The model as a function from a batch to logits."""

    def __init__(self, model: VisionModel) -> None:
        super().__init__()
        self.module, self._model = model.module, model

    def forward(self, x: Tensor) -> Tensor:
        raw = self.module(x, **self._model.structure.call)
        return raw if isinstance(raw, Tensor) else raw.logits


def _grad_cam(model: VisionModel, x: Tensor) -> Iterator[TimedTask]:
    package: Any = import_module("pytorch_grad_cam")
    targets: Any = import_module("pytorch_grad_cam.utils.model_targets")
    layer = _layer(model)
    if layer is None:
        return
    chosen = [targets.ClassifierOutputTarget(0)] * len(x)
    for name, cls in (("grad_cam", package.GradCAM), ("grad_cam_plus_plus", package.GradCAMPlusPlus)):
        cam = cls(model=_Plain(model), target_layers=[layer])
        run = partial(cam, input_tensor=x, targets=chosen)
        yield TimedTask(name, run, maps=len(x), package="grad-cam")


def _torchcam(model: VisionModel, x: Tensor) -> Iterator[TimedTask]:
    methods: Any = import_module("torchcam.methods")
    layer = _layer(model)
    if layer is None:
        return
    for name, cls in (("grad_cam", methods.GradCAM), ("layer_cam", methods.LayerCAM)):

        def run(cls: Any = cls) -> object:
            with cls(model.module, target_layer=layer) as extract:
                return extract(0, model.module(x.clone().requires_grad_()))

        yield TimedTask(name, run, maps=len(x), package="torchcam")


def _zennit(model: VisionModel, x: Tensor) -> Iterator[TimedTask]:
    composites: Any = import_module("zennit.composites")
    attribution: Any = import_module("zennit.attribution")
    canonizers: Any = import_module("zennit.torchvision")
    if model.structure.blocks or "resnet" not in type(model.module).__name__.lower():
        return
    one = torch.zeros(len(x), model.classes or 1, device=x.device)
    one[:, 0] = 1
    boxes = {"low": torch.full_like(x, -3), "high": torch.full_like(x, 3)}
    for name, cls, options in (
        ("lrp", composites.EpsilonPlusFlat, {}),
        ("lrp ε-γ-box", composites.EpsilonGammaBox, boxes),
        ("guided_backprop", composites.GuidedBackprop, {}),
    ):

        def run(cls: Any = cls, options: dict[str, Any] = options) -> object:
            rules = cls(canonizers=[canonizers.ResNetCanonizer()], **options)
            with attribution.Gradient(model=model.module, composite=rules) as attribute:
                return attribute(x, one)

        yield TimedTask(name, run, maps=len(x), package="zennit")
