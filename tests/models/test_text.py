"""Prompts as targets: CLIP, SigLIP and open_clip, tiny and random, against the libraries' own similarities."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from adapter_checks import shaken
from PIL import Image
from torch import Tensor, nn

import seewhy
from seewhy.core.cards import Capability
from seewhy.errors import OptionError, TargetError, UnknownNameError, WeightsError
from seewhy.methods import CDAM, RISE, LayerCAM, RelevancePropagation, Saliency
from seewhy.models.adapter import VisionModel
from seewhy.models.text import TextEncoder, TextSide

T = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")

TEXT_OF_A_CAT = "a photo of a cat"
WORDS = ["<end>", "<start>", *dict.fromkeys(TEXT_OF_A_CAT.split(" ")), "dog", "drawing", "the", "."]
VISION = {
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "intermediate_size": 32,
    "image_size": 32,
    "patch_size": 8,
}
TEXT = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "vocab_size": len(WORDS),
    "bos_token_id": 1,
    "eos_token_id": 0,
    "pad_token_id": 0,
    "max_position_embeddings": 12,
}
PROMPTS = [TEXT_OF_A_CAT, "a drawing of the dog"]
TEMPLATES = ["a photo of a {}", "a drawing of the {}"]


def tokenizer() -> Any:
    rules = tokenizers.Tokenizer(tokenizers.models.WordLevel({word: i for i, word in enumerate(WORDS)}, "<end>"))
    rules.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    rules.post_processor = tokenizers.processors.TemplateProcessing(
        single="<start> $A <end>", special_tokens=[("<start>", 1), ("<end>", 0)]
    )
    return T.PreTrainedTokenizerFast(tokenizer_object=rules, pad_token="<end>", eos_token="<end>")


def clip() -> Any:
    torch.manual_seed(0)
    config = T.CLIPConfig(vision_config={**VISION, "projection_dim": 12}, text_config=TEXT, projection_dim=12)
    return shaken(T.CLIPModel(config))


def siglip() -> Any:
    torch.manual_seed(0)
    module = shaken(T.SiglipModel(T.SiglipConfig(vision_config=VISION, text_config=TEXT)))
    module.logit_scale.data.fill_(1.5)
    module.logit_bias.data.fill_(-2.0)
    return module


def stored(module: Any, folder: Path) -> str:
    module.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    recipe = {"size": {"height": 32, "width": 32}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(recipe))
    return str(folder)


def own_logits(module: Any, x: Tensor, prompts: list[str]) -> Tensor:
    """What the library computes from images and texts together."""
    padding = {"padding": "max_length", "max_length": 12} if hasattr(module, "logit_bias") else {"padding": True}
    tokens = tokenizer()(prompts, return_tensors="pt", **padding)
    inputs = {"input_ids": tokens["input_ids"]}
    if not hasattr(module, "logit_bias"):
        inputs["attention_mask"] = tokens["attention_mask"]
    return module(pixel_values=x, **inputs).logits_per_image


@pytest.fixture(params=[clip, siglip], ids=["clip", "siglip"])
def whole(request: pytest.FixtureRequest) -> Any:
    return request.param()


def test_zero_shot_logits_are_the_librarys(whole: Any, tmp_path: Path, cat: Image.Image) -> None:
    model = seewhy.load_model(stored(whole, tmp_path), zero_shot=PROMPTS)
    x = model.preprocess_images([cat, cat.rotate(90)])
    with torch.no_grad():
        torch.testing.assert_close(model.run(x).logits, own_logits(whole, x, PROMPTS), atol=2e-5, rtol=1e-5)
    assert model.class_names == tuple(PROMPTS)
    assert model.structure.multi_label == hasattr(whole, "logit_bias")
    assert model.classes == 2
    assert not any("text" in name for name, _ in model.module.named_parameters())


def test_a_prompt_is_a_target_of_every_kind_of_method(whole: Any, tmp_path: Path, cat: Image.Image) -> None:
    """The gradient of the similarity is the one that autograd finds in the library's own forward."""
    model = seewhy.load_model(stored(whole, tmp_path))
    explanation = seewhy.explain(model, cat, Saliency(model), PROMPTS[0])
    assert explanation.target == {"kind": "text", "label": PROMPTS[0], "measure": "cosine"}
    x = model.preprocess_images(cat).requires_grad_()
    (gradient,) = torch.autograd.grad(own_logits(whole, x, PROMPTS)[0, 0], x)
    similarity = gradient / whole.logit_scale.exp().detach()  # the logit is a multiple of it
    torch.testing.assert_close(explanation.attribution, similarity[0].abs().amax(0), atol=1e-6, rtol=1e-3)
    for method in (LayerCAM(model), RISE(model, n_masks=4)):
        first, second = (seewhy.explain(model, cat, method, prompt).attribution for prompt in PROMPTS)
        assert not torch.allclose(first, second), method
    for cls in (CDAM, RelevancePropagation) if model.structure.class_token else ():
        assert not seewhy.explain(model, cat, cls(model), PROMPTS[0]).is_constant


def test_a_prompt_for_each_image_and_the_mean_of_templates(tmp_path: Path, cat: Image.Image) -> None:
    whole = clip()
    model = seewhy.load_model(stored(whole, tmp_path))
    both = seewhy.explain(model, [cat, cat], Saliency(model), PROMPTS)
    each = [seewhy.explain(model, cat, Saliency(model), prompt) for prompt in PROMPTS]
    for one, other in zip(both, each, strict=True):
        torch.testing.assert_close(one.attribution, other.attribution)
    texts = [template.replace("{}", "cat") for template in TEMPLATES]
    vectors = F.normalize(model.embed_text(texts), dim=-1)
    expected = F.normalize(vectors.mean(0), dim=0)
    torch.testing.assert_close(model.embed_text(["cat"], TEMPLATES)[0], expected)
    target = seewhy.targets.text(model, "cat", templates=TEMPLATES)
    torch.testing.assert_close(target.vector, expected)
    assert target.label(0) == "cat"


def test_the_text_side_is_loaded_when_the_first_prompt_comes_and_each_prompt_is_read_once() -> None:
    calls: list[list[str]] = []

    def encode(texts) -> Tensor:
        calls.append(list(texts))
        return torch.eye(3)[: len(texts)]

    loads: list[int] = []
    encoder = TextEncoder(lambda: (loads.append(1), TextSide(encode))[1])
    assert not loads
    encoder(["a", "b"])
    with torch.inference_mode():
        assert not encoder(["b", "c"]).is_inference()
    assert (loads, calls) == ([1], [["a"], ["b"], ["c"]])


def test_whole_models_of_ones_own_need_their_tokenizer(whole: Any, cat: Image.Image) -> None:
    before = {name: value.clone() for name, value in whole.state_dict().items()}
    whole.train()
    model = seewhy.wrap(whole, tokenizer=tokenizer())
    assert Capability.LOGITS not in model.capabilities
    classifier = model.zero_shot(["cat", "dog"], TEMPLATES)
    assert classifier.class_names == ("cat", "dog")
    explanation = seewhy.explain(classifier, cat, Saliency(classifier), "dog")
    assert explanation.target["label"] == "dog"
    assert explanation.target["index"] == 1
    with pytest.raises(UnknownNameError, match="dog"):  # a zero-shot class misspelt is no prompt
        seewhy.explain(classifier, cat, Saliency(classifier), "dgo")
    assert whole.training
    for name, value in whole.state_dict().items():
        assert torch.equal(value, before[name]), name
    with pytest.raises(TargetError, match="tokenizer="):
        seewhy.wrap(whole).embed_text(PROMPTS)


def test_open_clip(cat: Image.Image) -> None:
    open_clip = pytest.importorskip("open_clip")
    torch.manual_seed(0)
    vision = open_clip.CLIPVisionCfg(image_size=32, patch_size=8, width=24, layers=2, head_width=8)
    text = open_clip.CLIPTextCfg(width=16, heads=2, layers=1)
    whole = open_clip.CLIP(12, vision, text).eval()
    tokenize = open_clip.get_tokenizer("ViT-B-32")
    model = seewhy.wrap(whole, tokenizer=tokenize).zero_shot(PROMPTS)
    x = model.preprocess_images(cat)
    with torch.no_grad():
        images, texts, scale = whole(x, tokenize(PROMPTS))
        torch.testing.assert_close(model.run(x).logits, scale * images @ texts.mT, atol=2e-5, rtol=1e-5)
    with pytest.raises(TargetError, match="tokens"):
        model.embed_text(["cat " * 100])


# ── what cannot be ────────────────────────────────────────────────────────────────────────────────────────────────────
def test_errors_say_what_to_do(tmp_path: Path, cat: Image.Image) -> None:
    whole = clip()
    model = seewhy.load_model(stored(whole, tmp_path))
    for prompts, templates, message in (
        ([], ["{}"], "at least one prompt"),
        ([" "], ["{}"], "no empty one"),
        (["cat"], ["a cat"], "needs {}"),
        ("cat", ["{}"], "must be a list"),
        (["cat " * 20], ["{}"], "12 tokens"),
    ):
        with pytest.raises(TargetError, match=message):
            model.embed_text(prompts, templates)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).unlink()
    with pytest.raises(WeightsError, match="tokenizer"):
        seewhy.explain(seewhy.load_model(str(tmp_path)), cat, "saliency", PROMPTS[0])
    tower = T.CLIPVisionModelWithProjection(whole.config.vision_config)
    tower.save_pretrained(tmp_path / "tower")
    alone = seewhy.load_model(str(tmp_path / "tower"))
    with pytest.raises(TargetError, match="no text side"):
        alone.zero_shot(PROMPTS)
    with pytest.raises(TargetError, match="class names"):
        alone.as_target("a photo of a cat")
    with pytest.raises(OptionError, match="images and texts"):
        seewhy.wrap(nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 2)), tokenizer=tokenizer())


def test_numbers_and_words_keep_their_meaning(tmp_path: Path) -> None:
    model: VisionModel = seewhy.load_model(stored(clip(), tmp_path))
    assert model.as_target("embedding-sum").label(0) == "embedding sum"
    assert model.as_target("7").kind == "class"
    assert model.as_target("cat").kind == "text"
