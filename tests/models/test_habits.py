"""What users of other tools write: it works, or one line says what to write instead."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from toys import ToyCNN, ToyViT

import seewhy
from seewhy.errors import ImageError, ModelError
from seewhy.methods import METHODS

SIZE = (32, 48)


def noise_image() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8))


def test_a_module_as_it_is_is_told_to_be_wrapped() -> None:
    for call in (lambda m: seewhy.explain(m, noise_image()), METHODS["grad_cam"]):
        with pytest.raises(ModelError, match=r"ToyCNN is not a model of seewhy; wrap it first: seewhy\.wrap\(module\)"):
            call(ToyCNN().eval())


class Processor:
    """Gives what the image processors of transformers give."""

    def __call__(self, image: Image.Image) -> dict[str, list[np.ndarray]]:
        pixels = np.asarray(image.resize(SIZE[::-1]), np.float32).transpose(2, 0, 1) / 255
        return {"pixel_values": [pixels]}


@pytest.mark.parametrize(
    "preprocess", [Processor(), lambda image: torch.from_numpy(Processor()(image)["pixel_values"][0])[None]]
)
def test_an_image_processor_or_a_batch_of_one_is_a_preprocess(preprocess) -> None:
    model = seewhy.wrap(ToyCNN().eval(), preprocess=preprocess)
    expected = torch.from_numpy(Processor()(noise_image())["pixel_values"][0])
    assert torch.equal(model.preprocess_images(noise_image())[0], expected)
    assert seewhy.explain(model, noise_image(), "saliency").attribution.shape


def test_a_preprocess_that_gives_something_else_is_told_what_it_gave() -> None:
    with pytest.raises(ImageError, match=r"preprocess gave ndarray of shape \(32, 48, 3\); make it return a tensor"):
        seewhy.wrap(ToyCNN().eval(), preprocess=lambda image: np.zeros((32, 48, 3), np.float32))


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_a_torchscript_module_is_explained_as_a_function() -> None:
    module = ToyCNN().eval()
    x = torch.randn(1, 3, *SIZE)
    traced = seewhy.wrap_function(torch.jit.trace(module, x))
    assert torch.allclose(traced.run(x).logits, module(x), atol=1e-6)
    occluded = METHODS["occlusion"](traced)(x, 1)
    torch.testing.assert_close(occluded, METHODS["occlusion"](seewhy.wrap_function(module))(x, 1))


class ClassAndMean(ToyViT):
    """A head on the class token and the mean of the patch tokens, registers between them left out."""

    def __init__(self) -> None:
        super().__init__(SIZE, prefix=5)
        self.head = nn.Linear(32, 3)

    def pooled(self, tokens: Tensor) -> Tensor:
        tokens = self.norm(tokens)
        return torch.cat([tokens[:, 0], tokens[:, 5:].mean(1)], 1)


def test_a_class_token_that_is_read_beside_the_patches_is_one() -> None:
    model = seewhy.wrap(ClassAndMean().eval(), input_size=SIZE)
    assert model.structure.class_token
    assert model.structure.reads_patches
    assert model.structure.prefix_tokens == 5
    assert METHODS["attention_map"](model)(torch.randn(1, 3, *SIZE)).shape == (1, 4, 6)
