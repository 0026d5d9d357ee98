"""Token ablation map: what the score loses when one patch token is taken away."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from seewhy.core.cards import Capability, Cost
from seewhy.core.io import first_line
from seewhy.errors import LayoutError
from seewhy.methods.base import BATCH_SIZE, Method, chunks, images_per_pass, method, option, repeat_target
from seewhy.targets import Target


@method(
    name="token_ablation",
    title="Token ablation map",
    summary="What the score loses when a patch is taken away before the first block.",
    needs={Capability.TOKENS},
    signed=True,
    class_specific=True,
    citation="Brocki et al., Class-Discriminative Attention Maps (2024), arXiv:2312.02364, section 3.3",
    cost=lambda self: Cost.whole(self._patches() + 1),
)
class TokenAblation(Method):
    """S_i = f(x) − f(x without patch token i), the token removed after the positional embedding.

    The remaining tokens keep their positions. One forward for each patch token and one for the whole image, all
    batched; no gradients. Forward passes: rows · cols + 1.
    """

    batch_size: int = option(default=32, help=BATCH_SIZE, at_least=1)

    def _patches(self) -> int:
        height, width = getattr(self.model.preprocess, "size", None) or (224, 224)
        rows, cols = self.model.grid(height, width)
        return rows * cols

    def compute(self, x: Tensor, target: Target) -> Float[Tensor, "batch rows cols"]:
        """Compute the maps as the class describes them."""
        rows, cols = self.model.grid(x.shape[-2], x.shape[-1])
        prefix, batch = self.model.structure.prefix_tokens, len(x)
        whole = target.score(self.model.run(x)).float()
        scores = []
        for start, stop in chunks(rows * cols, batch, images_per_pass(self.batch_size, x)):
            removed = torch.arange(start, stop, device=x.device) + prefix
            score = self._score_without(
                x.repeat(stop - start, 1, 1, 1), removed, repeat_target(target, batch, stop - start)
            )
            scores.append(score.float().unflatten(0, (-1, batch)))
        return (whole - torch.cat(scores)).T.unflatten(1, (rows, cols))

    def _score_without(self, x: Tensor, removed: Tensor, target: Target) -> Tensor:
        def drop(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
            tokens = args[0]
            kept = torch.arange(tokens.shape[1] - 1, device=x.device).expand(len(tokens), -1)
            kept = kept + (kept >= removed.repeat_interleave(len(tokens) // len(removed))[:, None])
            return (tokens.gather(1, kept[..., None].expand(-1, -1, tokens.shape[2])), *args[1:])

        first = self.model.submodule(self.model.structure.blocks[0].name)
        handle = first.register_forward_pre_hook(drop)
        try:
            return target.score(self.model.run(x))
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise LayoutError(
                f"{self.model.name} cannot run with one token less ({first_line(error)}); use cdam or occlusion"
            ) from error
        finally:
            handle.remove()
