"""Training of a reference model from labels alone."""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from seewhy.models.reference.scenes import build, load
from seewhy.training.recipes import Recipe


class Student(nn.Module):
    """A model that learns from the labels.

    Attributes:
        model: The model.
    """

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.model = build(recipe.architecture, **recipe.options)
        if recipe.start is not None:
            self.model.load_state_dict(_shared_weights(load(recipe.start)[0], self.model), strict=False)

    def loss(
        self, x: Float[Tensor, "b 3 h w"], target: Float[Tensor, "b classes"], window: Int[Tensor, " m"] | None = None
    ) -> Float[Tensor, ""]:
        """Return the mean cross-entropy of the answers.

        Args:
            x: The models' input.
            target: 1 for each class that is in the image.
            window: The patches to look at; for students with a teacher only.
        """
        return F.binary_cross_entropy_with_logits(self.model(x).float(), target)


def _shared_weights(source: nn.Module, sink: nn.Module) -> dict[str, Tensor]:
    """Return the source's weights that fit into the sink by name and shape."""
    shapes = {name: value.shape for name, value in sink.state_dict().items()}
    return {name: value for name, value in source.state_dict().items() if shapes.get(name) == value.shape}
