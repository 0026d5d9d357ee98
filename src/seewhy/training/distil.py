"""A small transformer learns place by place from a CNN that is trained already.

The teacher's feature maps and the student's patches share one grid, so each patch token can be told what the teacher
sees at its place. The first block predicts the teacher's second stage, the middle one its third, the last one its
fourth: each is a short step from the one before, where labels alone would have to travel all the way.
"""

from __future__ import annotations

from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from seewhy.models.reference.scenes import SceneCNN, SceneViT, load
from seewhy.training.recipes import Recipe
from seewhy.training.students import Student

_STAGES = ("layer2", "layer3", "layer4")
_WEIGHT = 0.5  # of the distance from the teacher, beside the cross-entropy of the answers


class DistilledStudent(Student):
    """The transformer, its teacher, and one linear map per stage that is thrown away after training.

    Attributes:
        teacher: The trained CNN; it stays as it is.
        blocks: The number of the block that predicts each stage of the teacher.
        projections: From the student's tokens to each stage's channels.
    """

    def __init__(self, recipe: Recipe) -> None:
        if recipe.teacher is None:
            raise ValueError("the recipe names no teacher; use Student")
        super().__init__(recipe)
        self.teacher = cast(SceneCNN, load(recipe.teacher)[0]).requires_grad_(False)
        depth, dim = len(self.vit.blocks), self.vit.num_features
        self.blocks = (0, depth // 2, depth - 1)
        with torch.no_grad():
            widths = [f.shape[-1] for f in self._teacher_stages(torch.zeros(1, 3, *self.vit.patch_embed.img_size))]
        self.projections = nn.ModuleList(nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, width)) for width in widths)
        for i, width in enumerate(widths):
            self.register_buffer(f"spread{i}", torch.ones(width))

    @property
    def vit(self) -> SceneViT:
        """The model: recipes with a teacher train transformers."""
        return cast(SceneViT, self.model)

    def train(self, mode: bool = True) -> DistilledStudent:
        """Set the mode of everything but the teacher, which stays in eval mode."""
        super().train(mode)
        self.teacher.eval()
        return self

    def loss(
        self, x: Float[Tensor, "b 3 h w"], target: Float[Tensor, "b classes"], window: Int[Tensor, " m"] | None = None
    ) -> Float[Tensor, ""]:
        """Return the cross-entropy of the answers plus the distances from the teacher's features, stage by stage.

        Args:
            x: The models' input.
            target: 1 for each class that is in the image.
            window: The patches to look at. There the labels of the whole image would be wrong; the teacher's own
                answer for the window (its linear layer on the mean of the features within) stands in for them.
        """
        with torch.no_grad():
            stages = self._teacher_stages(x)
            if window is not None:
                stages = [stage[:, window] for stage in stages]
                target = self.teacher.fc(stages[-1].mean(1)).float().sigmoid()
        tokens = self.vit.embed(x, window)
        distance = torch.zeros((), device=x.device)
        for i, block in enumerate(self.vit.blocks):
            tokens = block(tokens)
            for stage, features in enumerate(stages):
                if self.blocks[stage] == i:
                    distance = distance + self._distance(stage, tokens[:, self.vit.num_prefix_tokens :], features)
        logits = self.vit.forward_head(self.vit.norm(tokens)).float()
        return F.binary_cross_entropy_with_logits(logits, target) + _WEIGHT * distance

    def _distance(
        self, stage: int, patches: Float[Tensor, "b n d"], features: Float[Tensor, "b n w"]
    ) -> Float[Tensor, ""]:
        """Return the mean squared difference in units of each channel's running spread."""
        spread = self.get_buffer(f"spread{stage}")
        with torch.no_grad():
            spread.lerp_(features.std((0, 1)).clamp_min(1e-2), 0.02)
        return F.mse_loss(self.projections[stage](patches).float(), features / spread)

    def _teacher_stages(self, x: Float[Tensor, "b 3 h w"]) -> list[Float[Tensor, "b n _"]]:
        """Return the teacher's stages on the student's grid; where a map is finer, its neighbors become channels."""
        teacher, side = self.teacher, self.vit.patch_embed.grid_size[0]
        x = teacher.layer1(teacher.relu(teacher.bn1(teacher.conv1(x))))
        stages = []
        for name in _STAGES:
            x = getattr(teacher, name)(x)
            features = x.float()
            if x.shape[-1] > side:
                features = F.pixel_unshuffle(features, x.shape[-1] // side)
            stages.append(features.flatten(2).transpose(1, 2))
        return stages
