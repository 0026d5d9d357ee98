"""The text side of the models of transformers: CLIP and SigLIP."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from seewhy.errors import MissingExtraError, TargetError, WeightsError
from seewhy.models.instrument.hooks import untouched
from seewhy.models.text import TextEncoder, TextSide

WITH_TEXT = ("clip", "siglip")
"""The model types that have a text side."""


def text(module: nn.Module, tokenizer: Any) -> TextEncoder | None:
    """Return the text side of a model of images and texts; None for any other module.

    Args:
        module: The whole model (`CLIPModel`, `SiglipModel`).
        tokenizer: The checkpoint's tokenizer, or its processor.
    """
    if not hasattr(module, "get_text_features"):
        return None
    return TextEncoder(lambda: _side(module, getattr(tokenizer, "tokenizer", tokenizer)))


def stored_text(location: str, config: Any, hub: Mapping[str, Any]) -> TextEncoder | None:
    """Return the text side of a stored model, loaded when it is asked for; None if it is an image tower alone.

    Args:
        location: A repository of the hub, or a folder.
        config: The configuration of the whole model.
        hub: Options for `from_pretrained`.
    """
    if config.model_type not in WITH_TEXT or not hasattr(config, "text_config"):
        return None
    if any(name not in ("CLIPModel", "SiglipModel") for name in config.architectures or []):
        return None
    return TextEncoder(lambda: _load(location, hub))


def _load(location: str, hub: Mapping[str, Any]) -> TextSide:
    from transformers import AutoModel, AutoTokenizer

    from seewhy.models.sources.hf.loading import readable_errors

    with readable_errors(location):
        whole = AutoModel.from_pretrained(location, weights_only=True, trust_remote_code=False, **hub).eval()
    whole.vision_model = None  # the image tower is loaded already
    try:
        tokenizer = AutoTokenizer.from_pretrained(location, trust_remote_code=False, **hub)
    except ImportError as error:
        raise MissingExtraError(f"the tokenizer of {location} needs a package that is missing: {error}") from error
    except (OSError, ValueError):
        tokenizer = ()
    if 2 * len(tokenizer) < whole.config.text_config.vocab_size:  # without files the library makes an empty one
        raise WeightsError(
            f"{location} has no tokenizer, so texts cannot be read; save one beside the weights: "
            "tokenizer.save_pretrained(folder)"
        )
    return _side(whole, tokenizer)


def _side(module: Any, tokenizer: Any) -> TextSide:
    longest = module.config.text_config.max_position_embeddings
    # SigLIP was trained on texts padded to the full length, and without a mask
    fixed = module.config.model_type.startswith("siglip")

    def encode(texts: Sequence[str]) -> Tensor:
        padding = {"padding": "max_length", "max_length": longest} if fixed else {"padding": True}
        tokens = tokenizer(list(texts), return_tensors="pt", **padding)
        if tokens["input_ids"].shape[1] > longest:
            raise TargetError(f"a prompt has more than the {longest} tokens that this model reads; shorten it")
        device = next(module.parameters()).device
        names = ("input_ids",) if fixed else ("input_ids", "attention_mask")
        inputs = {name: tokens[name].to(device) for name in names if name in tokens}
        with untouched(module):
            features = module.get_text_features(**inputs)
        # transformers 4 returned the tensor itself
        return features if isinstance(features, Tensor) else features.pooler_output

    return TextSide.of(module, encode)
