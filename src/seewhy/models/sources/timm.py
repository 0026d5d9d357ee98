"""Models of timm by name, with their own preprocessing and class names."""

from __future__ import annotations

import fnmatch
from typing import Any

from torch import nn

from seewhy.core.imagenet import imagenet_classes
from seewhy.core.preprocess import Preprocess
from seewhy.errors import OptionError, UnknownNameError, WeightsError, require
from seewhy.models.adapter import VisionModel
from seewhy.models.sources.timm_structure import input_size, reason, recognizes, structure

__all__ = ["EXTRA", "load", "names", "recognizes", "structure"]

EXTRA = "timm"
HUB = ("hf-hub:", "hf_hub:", "local-dir:")


def load(name: str, *, pretrained: bool = True, **options: Any) -> VisionModel:
    """A timm model by name (`vit_small_patch16_224.dino`, `hf-hub:owner/repo`), with its own preprocessing.

    Classes have names where the weights of that name are trained on ImageNet-1k (also with `pretrained=False`, for
    weights that come from a file), or where the model's repository brings them.

    Args:
        name: architecture, or architecture.weights.
        pretrained: whether to fetch the weights, or leave the parameters random.
        options: for `timm.create_model`, as `num_classes=0`, `img_size=(384, 192)`, `dynamic_img_size=True`.

    Raises:
        UnknownNameError: no such architecture, or no such weights for it.
        WeightsError: the weights cannot be fetched, or do not fit.
        OptionError: an option that the architecture does not take.
    """
    timm = require("timm", EXTRA)
    if not name.startswith(HUB):
        _check_name(timm, name)
    module = _create(timm, name, pretrained, options).eval()
    return VisionModel(
        module, structure(module), name=f"timm/{name}", preprocess=preprocess(module), class_names=_class_names(module)
    )


def names(pattern: str = "*") -> list[str]:
    """timm's names that match a shell pattern: each architecture, and each with the weights that exist for it."""
    timm = require("timm", EXTRA)
    return sorted(fnmatch.filter({*timm.list_models(), *timm.list_pretrained()}, pattern))


def _check_name(timm: Any, name: str) -> None:
    architecture, _, weights = name.partition(".")
    if not timm.is_model(architecture):
        raise UnknownNameError("timm model", name, names(), "`seewhy models 'timm/*'` lists them")
    known = [n for n in timm.list_pretrained() if n.partition(".")[0] == architecture]
    if weights and name not in known:
        raise UnknownNameError(f"weights for timm's {architecture}", name, [architecture, *known])


def _create(timm: Any, name: str, pretrained: bool, options: dict[str, Any]) -> nn.Module:
    try:
        module = timm.create_model(name, pretrained=pretrained, **options)
    except (TypeError, ValueError, AssertionError) as error:
        raise OptionError(f"timm cannot make {name!r} with {options} ({reason(error)}); drop one") from error
    except RuntimeError as error:
        raise WeightsError(f"timm/{name}: {reason(error)}; use pretrained=False or other weights") from error
    except Exception as error:  # whichever HTTP client the hub uses, with errors of its own
        raise WeightsError(
            f"the weights of timm/{name} cannot be fetched: the hub is not reachable ({reason(error)}); put them in a "
            f"file and use load_model('weights.safetensors', architecture='timm/{name}'), or pretrained=False"
        ) from error
    if options.get("img_size"):  # some architectures keep it nowhere
        size = options["img_size"]
        rows, cols = (size, size) if isinstance(size, int) else size
        module.pretrained_cfg = {**module.pretrained_cfg, "input_size": (3, rows, cols)}
    return module


def preprocess(module: nn.Module) -> Preprocess:
    """The preprocessing of the weights that the module's configuration names."""
    timm = require("timm", EXTRA)
    config = timm.data.resolve_data_config({}, model=module)
    return Preprocess.from_timm({**config, "input_size": (config["input_size"][0], *input_size(module))})


def _class_names(module: nn.Module) -> tuple[str, ...] | None:
    config, classes = module.pretrained_cfg, module.num_classes
    own = config.get("label_names")
    if own and len(own) == classes:
        return tuple(own)
    return imagenet_classes() if classes == 1000 and "in1k" in (config.get("tag") or "") else None
