"""Models of transformers that see images in another way than most: in patches, in groups, through learned queries."""

from __future__ import annotations

import pytest
import torch

from seewhy.errors import ModelError
from seewhy.methods import METHODS
from seewhy.models.infer.wrapping import wrap
from seewhy.models.probe import locate

transformers = pytest.importorskip("transformers")

SMALL = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}


def siglip2() -> torch.nn.Module:
    config = transformers.Siglip2Config(
        vision_config={**SMALL, "num_patches": 16, "patch_size": 8}, text_config={**SMALL, "vocab_size": 50}
    )
    torch.manual_seed(0)
    return transformers.Siglip2ForImageClassification(config).eval()


def test_images_are_cut_into_patches_as_the_library_does() -> None:
    from transformers.models.siglip2.image_processing_siglip2 import convert_image_to_patches

    module = siglip2()
    model = wrap(module)
    assert model.preprocess.size == (32, 32)
    x = torch.randn(2, 3, 24, 40)
    patches = torch.stack([convert_image_to_patches(image, 8) for image in x])
    shapes = torch.tensor([[3, 5]] * 2)
    plain = module(patches, pixel_attention_mask=torch.ones(2, 15), spatial_shapes=shapes).logits
    torch.testing.assert_close(model.run(x).logits, plain)
    assert len(model.structure.blocks) == 2
    assert all(found.is_right for found in locate(model, size=(24, 40)))
    assert METHODS["cdam"].why_incompatible(model) or METHODS["cdam"](model)(x, 0).shape == (2, 3, 5)


def test_tokens_of_groups_are_no_grid() -> None:
    config = transformers.GroupViTVisionConfig(
        hidden_size=24, depths=[1, 1, 1], num_group_tokens=[9, 3, 0], num_output_groups=[9, 3, 0],
        num_hidden_layers=3, num_attention_heads=2, intermediate_size=24, image_size=32, patch_size=4,
    )  # fmt: skip
    torch.manual_seed(0)
    model = wrap(transformers.GroupViTVisionModel(config).eval())
    assert model.cam_layer().name == "vision_model.embeddings.layernorm"
    assert not model.structure.blocks
    assert "are no patches of the image" in model.structure.note
    assert METHODS["grad_cam"](model)(torch.randn(1, 3, 32, 32)).shape == (1, 8, 8)


def test_learned_queries_are_no_grid_even_in_a_number_that_would_fit() -> None:
    config = transformers.PerceiverConfig(
        num_latents=16, d_latents=16, d_model=512, num_self_attends_per_block=1, num_self_attention_heads=2,
        num_cross_attention_heads=1, image_size=8, num_labels=3,
    )  # fmt: skip
    torch.manual_seed(0)
    model = wrap(transformers.PerceiverForImageClassificationLearned(config).eval())
    assert model.preprocess.size == (8, 8)
    assert [stage.name for stage in model.structure.stages] == [model.cam_layer().name]
    assert "encoder.cross_attention" in model.cam_layer().name  # the pixels that the latents attend to
    assert model.activations(torch.randn(1, 3, 8, 8), [model.cam_layer()])[model.cam_layer().name].shape[2:] == (8, 8)


def test_what_does_not_take_an_image_alone_is_refused_with_the_reason() -> None:
    colors = transformers.ImageGPTConfig(n_positions=64, n_embd=16, n_layer=1, n_head=1, vocab_size=9)
    with pytest.raises(ModelError, match=r"takes indices .* not pixels.*wrap_function"):
        wrap(transformers.ImageGPTForImageClassification(colors).eval())
    clip = transformers.BlipConfig(vision_config={**SMALL, "image_size": 32}, text_config={**SMALL, "vocab_size": 50})
    with pytest.raises(ModelError, match="reads a text together with the image"):
        wrap(transformers.BlipForImageTextRetrieval(clip).eval())
