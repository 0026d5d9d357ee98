"""The CDAM family in closed form where only the class token's row of the last attention reaches the score.

For tokens T (those that the attention gets), the class token's query q and one head: u = W_kᵀ q, s_i = scale · u·T_i,
p = softmax(s), m = Σ_i p_i T_i, o = W_v m + b_v; o goes on to the score f. With G = W_vᵀ ∂f/∂o,

    Σ_j D_ij ∂f/∂T_ij = p_i [G·D_i + scale · (u·D_i) (G·T_i − G·m)]

for a patch token i and any direction D, summed over heads: no token but the class token goes through the block, and no
gradient is projected back. The class token itself has a share through its query as well.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from seewhy.models.instrument.class_row import Projections
from seewhy.models.partial import ClassTokenTail
from seewhy.targets import Target


class Tokens(Protocol):
    """Tokens of n versions of every image, of which only sums are asked for."""

    @property
    def first(self) -> Float[Tensor, "n batch dim"]:
        """The class tokens."""
        ...

    def dot(self, vectors: Float[Tensor, "n batch k dim"]) -> Float[Tensor, "n batch k tokens"]:
        """Return the product of each token with each vector of its version and image."""
        ...

    def mix(self, weights: Float[Tensor, "n batch k tokens"]) -> Float[Tensor, "n batch k dim"]:
        """Return weighted sums of the tokens."""
        ...


@dataclass(frozen=True)
class GivenTokens:
    """Tokens as they are.

    Attributes:
        values: The tokens of each version.
    """

    values: Float[Tensor, "n batch tokens dim"]

    @property
    def first(self) -> Float[Tensor, "n batch dim"]:
        """The class tokens."""
        return self.values[:, :, 0]

    def dot(self, vectors: Float[Tensor, "n batch k dim"]) -> Float[Tensor, "n batch k tokens"]:
        """Return the product of each token with each vector."""
        return vectors @ self.values.mT

    def mix(self, weights: Float[Tensor, "n batch k tokens"]) -> Float[Tensor, "n batch k dim"]:
        """Return weighted sums of the tokens."""
        return weights @ self.values


@dataclass(frozen=True)
class ScaledTokens:
    """Tokens on straight lines from one point: T_k,i = origin + share_k,i (T_i − origin).

    Attributes:
        tokens: The ends of the lines.
        shares: How far each version is on its line.
        origin: Where the lines start.
    """

    tokens: Float[Tensor, "batch tokens dim"]
    shares: Float[Tensor, "n #batch #tokens"]
    origin: Float[Tensor, "dim"]

    @property
    def first(self) -> Float[Tensor, "n batch dim"]:
        """The class tokens."""
        return self.origin + self.shares[..., :1] * (self.tokens[:, 0] - self.origin)

    def dot(self, vectors: Float[Tensor, "n batch k dim"]) -> Float[Tensor, "n batch k tokens"]:
        """Return the product of each token with each vector."""
        shares, at_origin = self.shares[:, :, None], (vectors @ self.origin)[..., None]
        return shares * _by_image(vectors, self.tokens.mT) + (1 - shares) * at_origin

    def mix(self, weights: Float[Tensor, "n batch k tokens"]) -> Float[Tensor, "n batch k dim"]:
        """Return weighted sums of the tokens."""
        shares = self.shares[:, :, None]
        rest = (weights * (1 - shares)).sum(-1, keepdim=True)
        return _by_image(weights * shares, self.tokens) + rest * self.origin


@dataclass(frozen=True)
class NoisyTokens:
    """Tokens with noise that all images share: T_k = T + σ ε_k.

    Attributes:
        tokens: T.
        noise: ε of each version.
        sigma: σ of each image.
    """

    tokens: Float[Tensor, "batch tokens dim"]
    noise: Float[Tensor, "n tokens dim"]
    sigma: Float[Tensor, "#batch"]

    @property
    def first(self) -> Float[Tensor, "n batch dim"]:
        """The class tokens."""
        return self.tokens[:, 0] + self.sigma[:, None] * self.noise[:, None, 0]

    def dot(self, vectors: Float[Tensor, "n batch k dim"]) -> Float[Tensor, "n batch k tokens"]:
        """Return the product of each token with each vector."""
        return _by_image(vectors, self.tokens.mT) + self.sigma[:, None, None] * _by_version(vectors, self.noise.mT)

    def mix(self, weights: Float[Tensor, "n batch k tokens"]) -> Float[Tensor, "n batch k dim"]:
        """Return weighted sums of the tokens."""
        return _by_image(weights, self.tokens) + self.sigma[:, None, None] * _by_version(weights, self.noise)


def _by_image(a: Tensor, b: Float[Tensor, "batch k l"]) -> Tensor:
    """Return a @ b for (n, batch, …) and (batch, …): one product for each image, not for each version of it."""
    n = len(a)
    return (a.transpose(0, 1).flatten(1, 2) @ b).unflatten(1, (n, -1)).transpose(0, 1)


def _by_version(a: Tensor, b: Float[Tensor, "n k l"]) -> Tensor:
    """Return a @ b for (n, batch, …) and (n, …)."""
    batch = a.shape[1]
    return (a.flatten(1, 2) @ b).unflatten(1, (batch, -1))


def row_shares(
    tail: ClassTokenTail,
    at_cut: Float[Tensor, "n batch dim"],
    tokens: Tokens,
    target: Target,
    rounds: int = 1,
    start: float = 0.0,
) -> Float[Tensor, "n rounds batch tokens"]:
    """Return Σ_j (T − start)_ij ∂f/∂T_ij of every token, version and target.

    Args:
        tail: The part of the model above.
        at_cut: The class tokens at the cut of the tail.
        tokens: The tokens that the attention gets.
        target: One target for each version, round and image, in this order.
        rounds: How many targets each image has.
        start: What is taken from every number of every token.

    Raises:
        NoClassRow: The model cannot be run so.
    """
    n, batch, _ = at_cut.shape
    kept: list[tuple[Tensor, Tensor]] = []

    def attend(queries: Tensor, maps: Projections) -> Tensor:
        queries = queries.unflatten(0, (n, rounds, batch))[:, 0]
        vectors = torch.einsum("nbhe,hed->nbhd", queries, maps.key)
        dots = tokens.dot(vectors)
        weights = (dots * maps.scale).softmax(-1)
        kept.append((dots - start * vectors.sum(-1)[..., None], weights))
        mixed = torch.einsum("nbhd,hed->nbhe", tokens.mix(weights), maps.value) + maps.value_bias
        return mixed[:, None].expand(-1, rounds, -1, -1, -1).flatten(0, 2)

    output = tail(_for_rounds(at_cut, rounds), _for_rounds(tokens.first, rounds), attend)
    with torch.enable_grad():
        score = target.score(output)
    upper, maps = tail.gradient(score)
    ((query_dots, weights),) = kept
    upper = upper.unflatten(0, (n, rounds, batch))
    down = torch.einsum("nrbhe,hed->nbrhd", upper, maps.value)
    dots = tokens.dot(down.flatten(2, 3)).unflatten(2, (rounds, -1))
    slopes = weights[:, :, None] * (dots - (weights[:, :, None] * dots).sum(-1, keepdim=True)) * maps.scale
    ways = dots - start * down.sum(-1)[..., None]
    shares = (weights[:, :, None] * ways + query_dots[:, :, None] * slopes).sum(3)
    through_query = torch.einsum(
        "nbhe,nbrhe->nbr",
        torch.einsum("nbd,hed->nbhe", tokens.first - start, maps.query),
        torch.einsum("nbrhd,hed->nbrhe", tokens.mix(slopes.flatten(2, 3)).unflatten(2, (rounds, -1)), maps.key),
    )
    shares[..., 0] += through_query
    return shares.transpose(1, 2).float()


def _for_rounds(values: Float[Tensor, "n batch dim"], rounds: int) -> Float[Tensor, "rows dim"]:
    return values[:, None].expand(-1, rounds, -1, -1).flatten(0, 2)
