"""The text side of a model of images and texts (CLIP, SigLIP): prompts become vectors that images are compared with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from seewhy.errors import TargetError
from seewhy.models.structure import ReadOutput
from seewhy.targets import Output

PLAIN = ("{}",)
"""The template that leaves a prompt as it is."""


@dataclass(frozen=True)
class TextSide:
    """Protocol of a library's text tower.

    Attributes:
        encode: From texts to vectors (texts, dim) in the space of the image embeddings, of any length.
        scale: The factor from cosine similarity to logit: the learned temperature.
        bias: What is added to the logit (SigLIP).
        multi_label: Whether each text has a sigmoid of its own (SigLIP), not a softmax over the texts.
    """

    encode: Callable[[Sequence[str]], Float[Tensor, "texts dim"]]
    scale: float = 1.0
    bias: float = 0.0
    multi_label: bool = False

    @classmethod
    def of(cls, module: Any, encode: Callable[[Sequence[str]], Float[Tensor, "texts dim"]]) -> TextSide:
        """Return the text side of a model that keeps `logit_scale` (a logarithm) and, if it has one, `logit_bias`.

        Args:
            module: The whole model.
            encode: From texts to vectors.
        """
        bias = getattr(module, "logit_bias", None)
        return cls(
            encode,
            scale=float(module.logit_scale.detach().exp()),
            bias=0.0 if bias is None else float(bias.detach()),
            multi_label=bias is not None,
        )


class TextEncoder:
    """Turns prompts into unit vectors, each of them once.

    Args:
        load: Returns the text side; called when the first prompt comes, because the tower is as large as the image's.
    """

    def __init__(self, load: Callable[[], TextSide]) -> None:
        self._load = load
        self._vectors: dict[tuple[str, tuple[str, ...]], Tensor] = {}

    @cached_property
    def side(self) -> TextSide:
        """The text side, loaded when it is first asked for."""
        return self._load()

    @torch.inference_mode(False)  # vectors of inference mode could not be part of a graph later
    @torch.no_grad()
    def __call__(self, prompts: Sequence[str], templates: Sequence[str] = PLAIN) -> Float[Tensor, "prompts dim"]:
        """Return a unit vector for each prompt.

        It is the mean of the unit vectors of the filled-in templates, normalized again (prompt ensembling, Radford
        et al. 2021, section 3.1.4).

        Args:
            prompts: What takes the place of `{}` in each template.
            templates: `("a photo of a {}.", "a drawing of a {}.")`; default: the prompt itself.

        Raises:
            TargetError: There are no prompts or templates, one of them is empty, or a template has no `{}`.
        """
        templates = tuple(templates)
        _check(prompts, templates)
        for prompt in prompts:
            if (prompt, templates) not in self._vectors:
                vectors = self.side.encode([template.replace("{}", prompt) for template in templates]).float()
                mean = F.normalize(vectors, dim=-1).mean(0)
                self._vectors[prompt, templates] = F.normalize(mean, dim=-1)
        return torch.stack([self._vectors[prompt, templates] for prompt in prompts])


@dataclass(frozen=True)
class ZeroShotHead:
    """Reads logits of texts off an image tower: scale · cos(image, text) + bias.

    Attributes:
        read: How the tower's own result is read.
        vectors: Of the texts, (texts, dim), of unit length.
        side: Where scale and bias are known.
    """

    read: ReadOutput
    vectors: Float[Tensor, "texts dim"]
    side: TextSide
    _copies: dict[tuple[torch.device, torch.dtype], Tensor] = field(default_factory=dict, repr=False)

    def __call__(self, raw: Any, head_input: Tensor | None) -> Output:
        """Return the logits beside the tower's embedding."""
        output = self.read(raw, head_input)
        embedding = output.embedding
        if embedding is None:
            return output
        where = (embedding.device, embedding.dtype)
        if where not in self._copies:  # copied once, not in each forward
            self._copies[where] = self.vectors.to(embedding)
        logits = self.side.scale * (F.normalize(embedding, dim=-1) @ self._copies[where].mT) + self.side.bias
        return Output(logits=logits, embedding=embedding)


def _check(prompts: Sequence[str], templates: Sequence[str]) -> None:
    if isinstance(prompts, str):
        raise TargetError(f"prompts must be a list; give [{prompts!r}]")
    if not prompts or not all(isinstance(prompt, str) and prompt.strip() for prompt in prompts):
        raise TargetError("give at least one prompt, and no empty one: 'a photo of a cat'")
    if not templates or not all("{}" in template for template in templates):
        raise TargetError("each template needs {} where the prompt goes: 'a photo of a {}.'")
