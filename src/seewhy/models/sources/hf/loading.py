"""Load vision models of transformers from the hub or a folder, with their own preprocessing and class names."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from seewhy.core.io import first_line
from seewhy.core.preprocess import IMAGENET, Preprocess
from seewhy.errors import (
    LayoutError,
    MissingExtraError,
    OptionError,
    SeewhyError,
    WeightsError,
    broken_package,
    require,
)
from seewhy.models.adapter import VisionModel
from seewhy.models.infer.find import known_or_found
from seewhy.models.probe import checked
from seewhy.models.sources.hf.inspection import TYPES, config_of, heads_of, pair, structure, vision_option
from seewhy.models.sources.hf.text import stored_text
from seewhy.models.sources.hf.towers import PatchedTower, side_of_patches, takes_patches

EXTRA = "hf"
_HUB_OPTIONS = ("revision", "cache_dir", "token", "local_files_only", "subfolder")


def names(pattern: str = "*") -> list[str]:
    """Return one checkpoint of the hub for each kind of model; any other checkpoint of those kinds works as well."""
    return sorted(fnmatch.filter((kind.example for kind in TYPES.values() if kind.example), pattern))


def load(name: str, *, pretrained: bool = True, **options: Any) -> VisionModel:
    """Load a model of the Hugging Face hub, or of a local folder in its format.

    Args:
        name: `owner/repository`, or a folder with `config.json`, `model.safetensors` and `preprocessor_config.json`.
        pretrained: False: the architecture of that configuration with random weights.
        **options: For `from_pretrained`: `revision`, `cache_dir`, `token`, `local_files_only`, `dtype` (float32).

    Raises:
        MissingExtraError: transformers is not installed, or does not load.
        WeightsError: Not found, not reachable, or the weights do not fit the architecture.
        LayoutError: A model that seewhy does not know.
    """
    transformers = require("transformers", EXTRA)
    location = _location(name)
    dtype = options.pop("dtype", torch.float32)
    hub = {key: options.pop(key) for key in _HUB_OPTIONS if key in options}
    with readable_errors(name):
        config = transformers.AutoConfig.from_pretrained(location, trust_remote_code=False, **hub)
        text = stored_text(location, config, hub) if pretrained else None
        factory, config = _factory(transformers, config)
        if pretrained:
            module = _pretrained(factory, location, config=config, **hub, **options)
        else:
            module = getattr(factory, "from_config", factory)(config, **options)
        recipe = _preprocess(location, config, hub)
    module = module.to(dtype).eval()
    module = PatchedTower(module) if takes_patches(module) else module
    names = _class_names(module)
    found = known_or_found(structure, module, (config_of(module).get("num_channels", 3), *recipe.size))
    return checked(VisionModel(module, found, name=name, class_names=names, preprocess=recipe, text=text))


@contextmanager
def readable_errors(name: str) -> Iterator[None]:
    """In the block, turn what the hub and the loader raise into one line that says what to do."""
    try:
        yield
    except SeewhyError:
        raise
    except ImportError as error:  # the library imports its parts late
        raise MissingExtraError(broken_package("transformers", EXTRA, error)) from error
    except UnpicklingError as error:
        raise WeightsError(
            f"the weights of {name!r} hold more than tensors, and loading them could run code; "
            "use a checkpoint with model.safetensors"
        ) from error
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        reason = first_line(error).rstrip(".:")
        raise WeightsError(
            f"cannot load {name!r} ({reason}); check the name and the network, or give a local folder "
            "with config.json and model.safetensors (HF_HOME says where downloads are kept)"
        ) from error


def _location(name: str) -> str:
    folder = Path(name).expanduser()
    if folder.is_dir():
        return str(folder)
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise WeightsError(f"no folder {name!r}; pass owner/repository, or a folder that has config.json")
    return name


def _factory(transformers: Any, config: Any) -> tuple[Any, Any]:
    """Return the class that builds the image side of this configuration, and the configuration for it."""
    kind, architecture = config.model_type, (config.architectures or [""])[0]
    classifies = "ForImageClassification" in architecture
    is_tower = hasattr(config, "num_channels") and not hasattr(config, "vision_config")
    if kind not in TYPES and (classifies or is_tower):
        return transformers.AutoModelForImageClassification if classifies else transformers.AutoModel, config
    if kind not in TYPES:
        raise LayoutError(
            f"seewhy does not know {kind!r} models of transformers (it knows {', '.join(TYPES)}); "
            "load it with transformers and use seewhy.wrap(module, ...)"
        )
    if classifies:
        return transformers.AutoModelForImageClassification, config
    vision = getattr(config, "vision_config", config)
    if kind.startswith("siglip"):
        return transformers.SiglipVisionModel, vision
    if kind == "clip":
        vision.projection_dim = config.projection_dim
    if kind == "clip" or architecture == "CLIPVisionModelWithProjection":
        return transformers.CLIPVisionModelWithProjection, vision
    return transformers.AutoModel, config


def _pretrained(factory: Any, location: str, **options: Any) -> nn.Module:
    with _without_report():
        module, info = factory.from_pretrained(
            location, output_loading_info=True, weights_only=True, trust_remote_code=False, **options
        )
    missing = sorted(info["missing_keys"])
    if missing and all(key.startswith("pooler.") for key in missing):
        module.pooler = None  # DINO's checkpoints have none: a random one would be taken for the embedding
    elif missing:
        raise WeightsError(
            f"{location} has no weights for {', '.join(missing[:3])}{' …' * (len(missing) > 3)}; "
            "pass a checkpoint of this architecture, or pretrained=False"
        )
    return module


@contextmanager
def _without_report() -> Iterator[None]:
    """Silence the library's table of weights that are left over (a text side) or missing: those are judged here."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)


def _class_names(module: Any) -> list[str] | None:
    labels = {int(index): label for index, label in (getattr(module.config, "id2label", None) or {}).items()}
    # names like LABEL_3 are the library's own placeholders
    if not heads_of(module) or all(re.fullmatch(r"LABEL_\d+", label) for label in labels.values()):
        return None
    return [labels.get(index, str(index)) for index in range(module.config.num_labels)]


def _preprocess(location: str, config: Any, hub: Mapping[str, Any]) -> Preprocess:
    """From the checkpoint's own file; its image processor class is not built, as that can need torchvision."""
    from transformers.image_processing_base import ImageProcessingMixin

    try:
        recipe, _ = ImageProcessingMixin.get_image_processor_dict(location, **hub)
    except OSError:
        return _default_preprocess(config)
    size = side_of_patches(getattr(config, "vision_config", config))
    return Preprocess.from_hf(recipe).with_size(size, size) if size else Preprocess.from_hf(recipe)


def preprocess(module: nn.Module) -> Preprocess:
    """Return the usual preprocessing of models of this kind; a checkpoint may bring another one."""
    return _default_preprocess(module.config)


def _default_preprocess(config: Any) -> Preprocess:
    size: Any = vision_option(config, "image_size") or side_of_patches(getattr(config, "vision_config", config)) or 224
    known = TYPES.get(config.model_type)
    recipe = known.preprocess if known else _class_default(config.model_type)
    return recipe.with_size(*pair(size))


def _class_default(kind: str) -> Preprocess:
    """Return the defaults of the library's image processor for this kind; ImageNet's where there is none."""
    import transformers
    from transformers.models.auto.auto_mappings import IMAGE_PROCESSOR_MAPPING_NAMES

    names = IMAGE_PROCESSOR_MAPPING_NAMES.get(kind)
    name = names.get("pil") if isinstance(names, Mapping) else names
    try:
        processor = getattr(transformers, name[0] if isinstance(name, tuple) else name or "")
        return Preprocess.from_hf(processor().to_dict())
    except (AttributeError, ImportError, OptionError, TypeError, ValueError):  # parts that are not installed
        return IMAGENET
