"""A small transformer learns place by place from a CNN that already knows.

The teacher's feature maps and the student's patches share one grid, so each patch token can be told what the teacher
sees at its place. The first block is asked for the teacher's second stage, the middle one for its third, the last
tokens for its fourth: each is a short step from the one before, where labels alone would have to travel all the way.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from seewhy.models.reference.scenes import SceneCNN, SceneViT, load
from seewhy.training.recipes import Recipe
from seewhy.training.scenes import Plain

_STAGES = ("layer2", "layer3", "layer4")
_WEIGHT = 0.5  # of the distance from the teacher, beside the cross-entropy of the answers


class Student(Plain):
    """The transformer, its teacher, and one linear map per stage that is thrown away after training."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__(recipe)
        self.teacher: SceneCNN = load(recipe.teacher)[0].requires_grad_(False)  # type: ignore[arg-type, assignment]
        model: SceneViT = self.model  # type: ignore[assignment]
        depth = len(model.blocks)
        self.after = (0, depth // 2, depth - 1)  # the block that answers for each stage
        with torch.no_grad():
            wide = [f.shape[-1] for f in self._lessons(torch.zeros(1, 3, *model.patch_embed.img_size))]
        self.guesses = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(model.num_features), nn.Linear(model.num_features, w)) for w in wide
        )
        for i, w in enumerate(wide):
            self.register_buffer(f"spread{i}", torch.ones(w))

    def train(self, mode: bool = True) -> Student:
        super().train(mode)
        self.teacher.eval()
        return self

    def loss(
        self, x: Float[Tensor, "b 3 h w"], target: Float[Tensor, "b classes"], window: Int[Tensor, " m"] | None = None
    ) -> Float[Tensor, ""]:
        """Cross-entropy of the answers plus the distances from the teacher's features, stage by stage.

        In a `window` of patches the labels of the whole picture would be wrong; there the teacher's own answer for
        the window (its linear layer on the mean of the features within) stands in for them.
        """
        with torch.no_grad():
            lessons = self._lessons(x)
            if window is not None:
                lessons = [lesson[:, window] for lesson in lessons]
                target = self.teacher.fc(lessons[-1].mean(1)).float().sigmoid()
        model: SceneViT = self.model  # type: ignore[assignment]
        tokens, distance = model.embed(x, window), torch.zeros((), device=x.device)
        for i, block in enumerate(model.blocks):
            tokens = block(tokens)
            for stage, lesson in enumerate(lessons):
                if self.after[stage] == i:
                    distance = distance + self._distance(stage, tokens[:, model.num_prefix_tokens :], lesson)
        answer = F.binary_cross_entropy_with_logits(model.forward_head(model.norm(tokens)).float(), target)
        return answer + _WEIGHT * distance

    def _distance(
        self, stage: int, patches: Float[Tensor, "b n d"], lesson: Float[Tensor, "b n w"]
    ) -> Float[Tensor, ""]:
        """Mean squared difference in units of each channel's running spread."""
        spread = getattr(self, f"spread{stage}")
        with torch.no_grad():
            spread.lerp_(lesson.std((0, 1)).clamp_min(1e-2), 0.02)
        return F.mse_loss(self.guesses[stage](patches).float(), lesson / spread)

    def _lessons(self, x: Float[Tensor, "b 3 h w"]) -> list[Float[Tensor, "b n _"]]:
        """The teacher's stages on the student's grid; where a map is finer, its neighbors become channels."""
        teacher, side = self.teacher, self.model.patch_embed.grid_size[0]
        x = teacher.layer1(teacher.relu(teacher.bn1(teacher.conv1(x))))
        lessons = []
        for name in _STAGES:
            x = getattr(teacher, name)(x)
            lesson = F.pixel_unshuffle(x.float(), x.shape[-1] // side) if x.shape[-1] > side else x.float()
            lessons.append(lesson.flatten(2).transpose(1, 2))
        return lessons
