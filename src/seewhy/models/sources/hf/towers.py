"""The image sides of models of transformers that take more than images, or take them in patches."""

from __future__ import annotations

import inspect
import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn


def tower(module: nn.Module) -> nn.Module:
    """Return the image side of a model of images and texts (CLIP's with its projection), with shared modules.

    Models that take patches instead of images (SigLIP 2's NaFlex) become such that take images. Any other module is
    returned as it is.
    """
    whole: Any = module
    if takes_patches(whole):
        return PatchedTower(whole)
    if not hasattr(whole, "text_model") or not hasattr(whole, "vision_model"):
        return whole
    if takes_patches(whole.vision_model):
        return PatchedTower(whole.vision_model)
    if not hasattr(whole, "visual_projection"):
        return whole.vision_model
    if whole.config.model_type != "clip":
        return ImageTower(whole.vision_model, whole.visual_projection)
    from transformers import CLIPVisionModelWithProjection

    with torch.device("meta"):
        image_side = CLIPVisionModelWithProjection(whole.config.vision_config)
    image_side.vision_model = whole.vision_model
    image_side.visual_projection = whole.visual_projection
    image_side.training = whole.training
    return image_side


class ImageTower(nn.Module):
    """The image side of a model of images and texts, up to the vector that texts are compared with.

    Args:
        vision_model: What makes a pooled vector of an image.
        projection: What brings it to where texts lie.
    """

    def __init__(self, vision_model: nn.Module, projection: nn.Module) -> None:
        super().__init__()
        self.vision_model = vision_model
        self.visual_projection = projection
        self.training = vision_model.training

    @property
    def config(self) -> Any:
        """The configuration of the image side."""
        return self.vision_model.config

    def forward(self, pixel_values: Tensor) -> dict[str, Tensor]:
        """Return the projected vector as `image_embeds`."""
        return {"image_embeds": self.visual_projection(self.vision_model(pixel_values).pooler_output)}


def takes_patches(module: Any) -> bool:
    """Tell whether a module wants (batch, patches, pixels of a patch) and the rows and columns of patches beside."""
    wanted = inspect.signature(type(module).forward).parameters
    return {"pixel_values", "pixel_attention_mask", "spatial_shapes"} <= set(wanted) and "input_ids" not in wanted


class PatchedTower(nn.Module):
    """A module that takes patches, as one that takes images: all patches of an image count, none is padding.

    Args:
        model: The module.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.training = model.training

    @property
    def config(self) -> Any:
        """The configuration of the module."""
        return self.model.config

    def forward(self, pixel_values: Float[Tensor, "batch channels height width"]) -> Any:
        """Cut images into patches, row by row, as the library's processor does, and run the module."""
        config: Any = self.config
        side: int = (getattr(config, "vision_config", None) or config).patch_size
        rows, cols = pixel_values.shape[2] // side, pixel_values.shape[3] // side
        cells = pixel_values[:, :, : rows * side, : cols * side].unflatten(3, (cols, side)).unflatten(2, (rows, side))
        patches = cells.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)  # rows and columns, then pixels, channels
        shapes = torch.tensor([[rows, cols]], device=patches.device).expand(len(patches), 2)
        return self.model(patches, torch.ones_like(patches[..., 0], dtype=torch.long), shapes)


def side_of_patches(config: Any) -> int | None:
    """Return the side of square images with as many patches as the configuration names, where it names no size."""
    if getattr(config, "image_size", None) is not None:
        return None
    number, side = getattr(config, "num_patches", None), getattr(config, "patch_size", None)
    return math.isqrt(number) * side if isinstance(number, int) and isinstance(side, int) else None
