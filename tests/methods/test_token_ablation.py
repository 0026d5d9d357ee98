"""The token ablation map against one forward after the other."""

from __future__ import annotations

import literal
import pytest
import torch
from torch import nn
from toys import ToyViT, batch, toy_vit

from seewhy.errors import LayoutError, NonFiniteError
from seewhy.methods import TokenAblation
from seewhy.models.adapter import VisionModel
from seewhy.models.structure import Block, Structure


@pytest.mark.parametrize("options", [{}, {"prefix": 5}, {"prefix": 0, "pool": "mean"}])
def test_each_patch_is_removed_alone_after_the_positions_are_added(options, agree):
    model = toy_vit(**options)
    vit, x, classes = model.module.double(), batch().double(), (3, 1)
    tokens = literal.embed(vit, x)
    want = torch.zeros(2, tokens.shape[1], dtype=torch.float64)
    for image, index in enumerate(classes):
        whole = literal.logits(vit, literal.through(vit, tokens[image : image + 1])[0])[0, index]
        for token in range(vit.prefix, tokens.shape[1]):
            fewer = torch.cat([tokens[image : image + 1, :token], tokens[image : image + 1, token + 1 :]], 1)
            want[image, token] = whole - literal.logits(vit, literal.through(vit, fewer)[0])[0, index]
    got = TokenAblation(model)(x, list(classes))
    # differences of float32 scores: looser than the scores themselves
    agree("Token ablation", "literal equation", got, literal.on_grid(want, vit.prefix, 4, 6), 1e-5)


def test_chunks_do_not_change_the_map():
    model, x = toy_vit(), batch(3)
    maps = [TokenAblation(model, batch_size=size)(x, [0, 1, 2]) for size in (1, 10, 1000)]
    torch.testing.assert_close(maps[0], maps[1], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(maps[0], maps[2], rtol=1e-4, atol=1e-6)


class NeedsAllTokens(ToyViT):
    """Mixes tokens with a matrix of fixed size, as an MLP-Mixer does."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.Sequential(Mixer(), *self.blocks)


class Mixer(nn.Module):
    def __init__(self):
        super().__init__()
        self.mix = nn.Linear(25, 25)

    def forward(self, x):
        return x + self.mix(x.mT).mT


def test_a_model_that_needs_all_tokens_says_so_and_keeps_no_hook():
    module = NeedsAllTokens()
    structure = Structure(
        "toy",
        blocks=(Block("blocks.0", "blocks.1.norm1", "blocks.1.attn"),),
        prefix_tokens=1,
        class_token=True,
        patch_size=(8, 8),
        head="head",
    )
    with pytest.raises(LayoutError, match="cannot run with one token less"):
        TokenAblation(VisionModel(module, structure))(batch(), 1)
    assert not module.blocks[0]._forward_pre_hooks


def test_nan_scores_are_the_models_fault():
    model = toy_vit()
    with torch.no_grad():
        model.module.head.bias[1] = float("nan")
    with pytest.raises(NonFiniteError, match="toy_vit gives NaN"):
        TokenAblation(model)(batch(), 1)
