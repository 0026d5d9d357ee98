"""Kinds of modules whose map would look normal and be wrong: they are read rightly, or asked about."""

from __future__ import annotations

import pytest
import torch
from models.adapter_checks import image
from torch import Tensor, nn
from toys import ToyCNN, ToyViT

from seewhy.core.cards import Capability
from seewhy.errors import LayoutError
from seewhy.methods import METHODS
from seewhy.models.infer.wrapping import wrap
from seewhy.models.structure import Layer
from seewhy.targets import Output

SIZE = (32, 48)


# ── several branches ──────────────────────────────────────────────────────────────────────────────────────────────────
class Branches(nn.Module):
    """Two branches, each with its own map, behind a common stem or none; joined behind their pooling or before."""

    def __init__(self, stem: bool = False, joined: bool = False) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 3, 3, 1, 1) if stem else nn.Identity()
        self.a, self.b = (nn.Sequential(nn.Conv2d(3, 8, 3, 4, 1), nn.ReLU()) for _ in range(2))
        self.join = nn.Conv2d(16, 16, 1) if joined else nn.Identity()
        self.fc = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.fc(self.join(torch.cat([self.a(x), self.b(x)], 1)).mean((2, 3)))


class Separate(Branches):
    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.fc(torch.cat([self.a(x).mean((2, 3)), self.b(x.flip(3)).mean((2, 3))], 1))


class Ensemble(nn.Module):
    def __init__(self, end: nn.Module | None = None) -> None:
        super().__init__()
        self.nets, self.end = nn.ModuleList([ToyCNN(), ToyCNN()]), end or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self.end(net(x)) for net in self.nets]).mean(0)


@pytest.mark.parametrize("make", [Separate, lambda: Separate(stem=True), Ensemble])
def test_no_branch_stands_for_all_without_being_asked_for(make) -> None:
    model = wrap(make().eval(), input_size=SIZE)
    with pytest.raises(LayoutError, match=r"several branches lead to the score.*choose one with layer="):
        METHODS["grad_cam"](model)
    with pytest.raises(LayoutError, match="several branches"):
        METHODS["lafam"](model)
    layer = model.structure.stages[-1].name
    assert METHODS["grad_cam"](model, layer=layer)(image(*SIZE), 1).shape[0] == 2
    assert METHODS["saliency"](model)(image(*SIZE), 1).shape[1:] == SIZE


def test_branches_that_join_on_the_grid_have_a_layer_for_all() -> None:
    model = wrap(Branches(joined=True).eval(), input_size=SIZE)
    assert model.cam_layer() == Layer("join", "nchw")


class Trunk(nn.Module):
    """Two branches behind a trunk that is more than a stem, one with a second head; their logits are added."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Conv2d(3, 6, 4, 4), nn.ReLU(), nn.Conv2d(6, 6, 2, 2), nn.ReLU())
        self.a, self.b = (nn.Sequential(nn.Conv2d(6, 8, 3, 2, 1), nn.ReLU()) for _ in range(2))
        self.heads = nn.ModuleList(nn.Linear(8, 3) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.trunk(x)
        return sum(head(part(x).mean((2, 3))) for head, part in zip(self.heads, (self.a, self.b), strict=True))


def test_a_trunk_stands_for_the_branches_behind_it() -> None:
    model = wrap(Trunk().eval(), input_size=SIZE, output="logits")
    assert model.cam_layer() == model.structure.stages[-1] == Layer("trunk", "nchw")
    assert "layer= takes the end of one: 'a', 'b'" in model.structure.note
    x = image(*SIZE)
    kept = model.module.trunk(x).detach().requires_grad_()
    a, b = (
        head(part(kept).mean((2, 3)))
        for head, part in zip(model.module.heads, (model.module.a, model.module.b), strict=True)
    )
    (gradient,) = torch.autograd.grad((a + b)[:, 1].sum(), kept)
    expected = (gradient.mean((2, 3), keepdim=True) * kept).sum(1)
    torch.testing.assert_close(METHODS["grad_cam"](model, relu=False)(x, 1), expected)


class Decoder(nn.Module):
    """Tokens of two levels, brought together on the grid of the first."""

    def __init__(self) -> None:
        super().__init__()
        vit = ToyViT(SIZE, prefix=0)
        self.embed, self.blocks, self.pos_embed = vit.patch_embed, vit.blocks, vit.pos_embed
        self.coarse = nn.Conv2d(16, 16, 2, 2)
        self.fuse = nn.Conv2d(32, 8, 1)
        self.act = nn.ReLU()
        self.classifier = nn.Conv2d(8, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.blocks[0](self.embed(x).flatten(2).transpose(1, 2) + self.pos_embed)
        fine = tokens.transpose(1, 2).unflatten(2, (4, 6))
        wide = nn.functional.interpolate(self.coarse(fine), size=fine.shape[2:])
        return self.classifier(self.act(self.fuse(torch.cat([fine, wide], 1))))


def test_a_decoder_s_map_on_the_grid_of_the_tokens_stands_for_all_levels() -> None:
    model = wrap(Decoder().eval(), input_size=SIZE, output="segmentation")
    assert model.cam_layer() == model.structure.stages[-1] == Layer("act", "nchw")


# ── what comes out ────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize(
    ("end", "multi_label"), [(nn.Softmax(1), False), (nn.Sigmoid(), True), (nn.LogSoftmax(1), False)]
)
def test_scores_are_the_logits_below_a_softmax_or_sigmoid(end: nn.Module, multi_label: bool) -> None:
    module = nn.Sequential(ToyCNN(), end).eval()
    model = wrap(module, input_size=SIZE)
    x = image(*SIZE)
    logits = module[0](x)
    assert torch.equal(model.run(x).logits, logits)
    expected = logits.sigmoid() if multi_label else logits.softmax(1)
    torch.testing.assert_close(model.probabilities(model.run(x).logits), expected)
    assert "logits below it" in model.structure.note
    ours = METHODS["grad_cam"](model, relu=False)(x, 2)
    torch.testing.assert_close(ours, METHODS["grad_cam"](wrap(module[0], input_size=SIZE), relu=False)(x, 2))


def test_the_mean_of_distributions_gives_their_logarithm_as_scores() -> None:
    module = Ensemble(nn.Softmax(1)).eval()
    model = wrap(module, input_size=SIZE)
    x = image(*SIZE)
    torch.testing.assert_close(model.probabilities(model.run(x).logits), module(x))
    assert Capability.EMBEDDING not in model.capabilities


def test_the_mean_of_two_heads_has_both_as_its_score() -> None:
    model = wrap(Ensemble().eval(), input_size=SIZE)
    x = image(*SIZE)
    assert torch.equal(model.run(x).logits, model.module(x))
    assert "mean of 2 heads" in model.structure.note


class Scaled(ToyCNN):
    def forward(self, x: Tensor) -> Tensor:
        return 10 * super().forward(x)


class Normalized(ToyCNN):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.normalize(super().forward(x))


def test_what_could_be_scores_or_an_embedding_is_asked_about() -> None:
    for module in (Scaled().eval(), Ensemble(nn.Sigmoid()).eval()):
        with pytest.raises(LayoutError, match=r"output='logits'\), 'probabilities' or 'embedding'"):
            wrap(module, input_size=SIZE)
        assert Capability.LOGITS in wrap(module, input_size=SIZE, output="logits").capabilities
        assert Capability.LOGITS not in wrap(module, input_size=SIZE, output="embedding").capabilities
    assert Capability.LOGITS not in wrap(Normalized().eval(), input_size=SIZE).capabilities  # of length one: compared
    odds = wrap(Ensemble(nn.Sigmoid()).eval(), input_size=SIZE, output="probabilities", multi_label=True)
    x = image(*SIZE)
    torch.testing.assert_close(odds.probabilities(odds.run(x).logits), odds.module(x), atol=1e-5, rtol=1e-4)


class Segmenter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net, self.score = ToyCNN().stage1, nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.interpolate(self.score(self.net(x)), size=x.shape[-2:])


def test_a_map_of_class_scores_is_no_layer_to_explain_them_by() -> None:
    model = wrap(Segmenter().eval(), input_size=SIZE, read=lambda raw, _: Output(logits=raw.mean((2, 3))))
    assert model.cam_layer().name == "net"


# ── what goes in ──────────────────────────────────────────────────────────────────────────────────────────────────────
def test_images_are_fed_in_the_size_that_was_looked_at(cat) -> None:
    model = wrap(ToyCNN().eval(), input_size=40)
    assert model.preprocess_images(cat).shape == (1, 3, 40, 40)
    assert wrap(ToyCNN().eval(), input_size=(24, 40)).preprocess_images(cat).shape == (1, 3, 24, 40)


@pytest.mark.parametrize(
    ("name", "side"), [("squeezenet1_1", 224), ("inception_v3", 299), ("efficientnet_b4", 380), ("swin_v2_t", 256)]
)
def test_torchvision_modules_are_fed_in_the_size_that_they_were_made_for(name: str, side: int) -> None:
    models = pytest.importorskip("torchvision").models
    from seewhy.models.sources import torchvision as source

    with torch.device("meta"):
        module = models.get_model(name, weights=None, num_classes=7)
    expected = models.get_model_weights(name)["DEFAULT"].transforms()
    recipe = source.preprocess(module)
    assert recipe.size == (side, side) == (expected.crop_size[0],) * 2
    assert recipe.resize == expected.resize_size[0]


def test_the_image_size_of_a_classifier_on_a_tower_is_that_of_the_tower() -> None:
    transformers = pytest.importorskip("transformers")
    vision = {
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "image_size": 48,
        "patch_size": 16,
    }
    config = transformers.SiglipConfig(vision_config=vision, text_config={**vision, "vocab_size": 20}, num_labels=3)
    model = wrap(transformers.SiglipForImageClassification(config).eval())
    assert model.preprocess.size == (48, 48)


# ── (tokens, batch, dim) ──────────────────────────────────────────────────────────────────────────────────────────────
class SequenceFirst(nn.Module):
    """A ViT on `nn.TransformerEncoder` as it is by default: (tokens, batch, dim)."""

    def __init__(self, class_token: bool) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 8, 8)
        self.cls = nn.Parameter(torch.randn(int(class_token), 1, 16))
        layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).permute(2, 0, 1)
        tokens = self.encoder(torch.cat([self.cls.expand(-1, len(x), -1), tokens]))
        return self.head(tokens[0] if len(self.cls) else tokens.mean(0))


@pytest.mark.parametrize("class_token", [True, False])
def test_sequence_first_transformers_are_explained_at_the_last_attention(class_token: bool) -> None:
    module = SequenceFirst(class_token).eval()
    model = wrap(module, input_size=SIZE)
    layer = Layer("encoder.layers.2.norm1", "sequence")
    assert model.cam_layer() == layer
    assert model.structure.prefix_tokens == int(class_token)
    assert "batch_first=True" in model.structure.note
    x = image(*SIZE)
    kept: list[Tensor] = []
    handle = module.encoder.layers[2].norm1.register_forward_hook(lambda _, __, output: kept.append(output))
    scores = module(x)[:, 1].sum()
    (gradient,) = torch.autograd.grad(scores, kept)
    handle.remove()
    value, gradient = (v[int(class_token) :].permute(1, 2, 0).unflatten(2, (4, 6)) for v in (kept[0], gradient))
    expected = (gradient.mean((2, 3), keepdim=True) * value).sum(1)
    torch.testing.assert_close(METHODS["grad_cam"](model, relu=False)(x, 1), expected, atol=1e-6, rtol=1e-4)
    with pytest.raises(LayoutError, match="batch_first=True"):
        model.tail(x, layer)
    with model.shared_images([0, 0, 1]):
        maps = model.activations(x[[0, 0, 1]], [layer])[layer.name]
    torch.testing.assert_close(maps, model.activations(x, [layer])[layer.name][[0, 0, 1]])


def test_attention_outside_of_blocks_still_gives_the_layer_before_it() -> None:
    """Attention and feed-forward in a list of pairs, with the residual sums in the model itself."""

    class Pairs(ToyViT):
        def __init__(self) -> None:
            super().__init__(SIZE)
            blocks = [
                nn.ModuleList([nn.Sequential(b.norm1, b.attn), nn.Sequential(b.norm2, b.mlp)]) for b in self.blocks
            ]
            self.pairs = nn.ModuleList(blocks)
            del self.blocks

        def forward(self, x: Tensor) -> Tensor:
            x = self.embed(x)
            for attention, feed in self.pairs:
                x = x + attention(x)
                x = x + feed(x)
            return self.head(self.pooled(x))

    model = wrap(Pairs().eval(), input_size=SIZE)
    assert model.cam_layer() == Layer("pairs.2.0.0", "tokens")
    assert METHODS["grad_cam"](model, relu=False)(image(*SIZE), 1).abs().max() > 0
