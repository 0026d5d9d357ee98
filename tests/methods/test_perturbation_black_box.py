"""Functions that only answer: what works with them, what they are given, and what is refused."""

from __future__ import annotations

import inspect

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper, numpy_helper
from toys import batch, toy_cnn

import seewhy
from seewhy.core.cards import Capability
from seewhy.core.preprocess import Preprocess
from seewhy.errors import LayoutError, ModelError, OptionError, RequirementError, TargetError, UnknownNameError
from seewhy.methods import METHODS, RELAX, RISE, GradCAM, LaFAM, Occlusion, Saliency
from seewhy.targets import Similarity

RECIPE = Preprocess(size=(32, 48), resize=None)
NAMES = ["ant", "bee", "cat", "dog", "elk"]


@pytest.fixture
def module():
    return toy_cnn().module.eval()


def answers(module):
    """The toy as a function of numpy arrays that writes over its input."""

    def fn(images):
        assert isinstance(images, np.ndarray)
        assert images.dtype == np.float32
        with torch.no_grad():
            scores = module(torch.from_numpy(images.copy())).numpy()
        images[:] = np.nan
        return scores

    return fn


def pooled(module):
    return lambda images: module.stage2(module.stage1(images)).mean((2, 3), keepdim=True)


def session(module):
    """The toy in ONNX, put together by hand: its batch norms folded into scale and shift."""
    nodes, weights, at = [], [], "images"

    def given(name, values):
        weights.append(numpy_helper.from_array(values.detach().numpy(), name))
        return name

    for i, stage in enumerate((module.stage1, module.stage2)):
        conv, norm = stage[0], stage[1]
        scale = norm.weight / (norm.running_var + norm.eps).sqrt()
        nodes += [
            helper.make_node(
                "Conv",
                [
                    at,
                    given(f"w{i}", conv.weight * scale[:, None, None, None]),
                    given(f"b{i}", (conv.bias - norm.running_mean) * scale + norm.bias),
                ],
                [f"c{i}"],
                strides=[2, 2],
                pads=[1, 1, 1, 1],
            ),
            helper.make_node("Relu", [f"c{i}"], [f"r{i}"]),
        ]
        at = f"r{i}"
    nodes += [
        helper.make_node("GlobalAveragePool", [at], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["flat"]),
        helper.make_node(
            "Gemm", ["flat", given("w", module.head.weight), given("b", module.head.bias)], ["scores"], transB=1
        ),
    ]
    ends = (
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", 3, 32, 48])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 5])],
    )
    graph = helper.make_graph(nodes, "toy", *ends, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize(("cls", "options"), [(RISE, {"n_masks": 9}), (Occlusion, {"window": 8})])
def test_a_numpy_function_and_an_onnx_session_get_the_modules_maps(module, cls, options, agree):
    want = cls(toy_cnn(), **options)(batch(), [3, 1])
    runs = session(module)
    functions = {"numpy": answers(module), "ONNX Runtime": lambda images: runs.run(None, {"images": images})[0]}
    for name, fn in functions.items():
        model = seewhy.wrap_function(fn, takes="numpy", class_names=NAMES, preprocess=RECIPE)
        agree(cls.card.title, f"the module itself, through {name}", cls(model, **options)(batch(), [3, 1]), want, 1e-4)


def test_an_embedding_is_explained_without_labels(module, agree):
    model = seewhy.wrap_function(pooled(module), output="embedding", preprocess=RECIPE)
    assert model.capabilities == {Capability.EMBEDDING}
    want = RELAX(toy_cnn(), n_masks=9).both(batch())
    for got, expected in zip(RELAX(model, n_masks=9).both(batch()), want, strict=True):
        agree("RELAX", "of a function", got, expected)
    concept = Similarity(torch.linspace(-1, 1, 8))
    agree("Occlusion", "of a function", Occlusion(model)(batch(), concept), Occlusion(toy_cnn())(batch(), concept))
    with pytest.raises(TargetError, match="gives no logits"):
        Occlusion(model)(batch(), 3)


def test_exactly_the_methods_that_need_no_look_inside_work(module):
    model = seewhy.wrap_function(answers(module), takes="numpy", preprocess=RECIPE)
    assert model.capabilities == {Capability.LOGITS}
    assert {cls for cls in METHODS.values() if not cls.why_incompatible(model)} >= {RISE, Occlusion}
    for cls in METHODS.values():
        assert bool(cls.why_incompatible(model)) == bool(cls.card.needs - {Capability.LOGITS})
    for cls, words in [
        (Saliency, "it needs gradients"),
        (GradCAM, "gradients"),
        (LaFAM, "feature maps"),
        (RELAX, "it needs an embedding"),
    ]:
        with pytest.raises(RequirementError, match=f"{words}.*these can: .*rise"):
            cls(model)


def test_from_a_photo(module, cat, agree):
    model = seewhy.wrap_function(answers(module), takes="numpy", preprocess=RECIPE, class_names=NAMES, name="numbers")
    toy = toy_cnn()
    agree("predict", "module", model.predict(cat), toy.predict(cat))
    ours, theirs = (seewhy.explain(m, cat, "rise", "dog", n_masks=9) for m in (model, toy))
    agree("RISE", "image", ours.attribution, theirs.attribution)
    assert ours.model == "numbers"
    assert ours.target["label"] == "dog"


@pytest.mark.parametrize("multi_label", [False, True])
def test_probabilities_are_not_put_through_a_softmax_again(module, multi_label, agree):
    chances = (lambda x: module(x).sigmoid()) if multi_label else (lambda x: module(x).softmax(1))
    model = seewhy.wrap_function(chances, output="probabilities", multi_label=multi_label, preprocess=RECIPE)
    with torch.no_grad():
        agree("probabilities", "the function's", model.probabilities(model.run(batch()).logits), chances(batch()))
    certain = seewhy.wrap_function(
        lambda x: F.one_hot(torch.ones(len(x), dtype=torch.long), 5),
        output="probabilities",
        multi_label=multi_label,
        preprocess=RECIPE,
    )
    torch.testing.assert_close(RISE(certain, n_masks=2000)(batch(1), 1).mean(), torch.tensor(1.0), rtol=0.03, atol=0)
    assert RISE(certain, n_masks=9)(batch(1), 2).max() < 1e-6


def test_a_function_that_takes_few_images_at_a_time(module):
    sizes = []
    model = seewhy.wrap_function(lambda x: (sizes.append(len(x)), module(x))[1], batch_size=3, preprocess=RECIPE)
    torch.testing.assert_close(RISE(model, n_masks=7)(batch(), 1), RISE(toy_cnn(), n_masks=7)(batch(), 1))
    assert set(sizes) == {3, 2}
    assert sum(sizes) == 14


def test_a_module_leaves_as_it_came(module):
    module.train()
    module.stage1[1].eval()
    model = seewhy.wrap_function(module, classes=5, preprocess=RECIPE)
    torch.testing.assert_close(Occlusion(model)(batch(), 1), Occlusion(toy_cnn())(batch(), 1))
    assert [n for n, m in module.named_modules() if not m.training] == ["stage1.1"]


def test_the_batch_is_the_callers(module):
    x = batch()
    model = seewhy.wrap_function(lambda images: module(images.mul_(1)) + 0 * images.zero_().sum(), preprocess=RECIPE)
    Occlusion(model)(x, 1)
    assert torch.equal(x, batch())


def test_batches_are_made_where_the_function_wants_them():
    model = seewhy.wrap_function(lambda images: images.mean((2, 3)), device="meta", preprocess=RECIPE)
    assert model.device.type == "meta"
    assert model.run(torch.zeros(2, 3, 8, 8, device="meta")).logits.shape == (2, 3)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (lambda x: [np.zeros((len(x), 5))], r"shape \(1, 2, 5\) for 2 images"),
        (lambda x: np.zeros(5), r"shape \(5,\) for 2 images"),
        (lambda x: {"scores": 1}, "returns dict, not an array"),
        (lambda x: [[1.0], [1.0, 2.0]], "returns list, not an array"),
    ],
)
def test_answers_of_the_wrong_shape(raw, message):
    with pytest.raises(LayoutError, match=message):
        Occlusion(seewhy.wrap_function(raw, preprocess=RECIPE))(batch(), 0)


def test_what_cannot_be_wrapped():
    for options, error, message in [
        ({"output": "scores"}, UnknownNameError, "logits, probabilities, embedding"),
        ({"takes": "list"}, UnknownNameError, "tensor, numpy"),
        ({"batch_size": 0}, OptionError, "batch_size=0"),
        ({"classes": 4, "class_names": NAMES}, OptionError, "5 class names for 4 classes"),
    ]:
        with pytest.raises(error, match=message):
            seewhy.wrap_function(len, **options)
    with pytest.raises(ModelError, match="takes a function, not str"):
        inspect.unwrap(seewhy.wrap_function)("model.onnx")  # below the tests' own check of types
    unreachable = seewhy.wrap_function(lambda x: pytest.fail("ran"), classes=5, preprocess=RECIPE)
    with pytest.raises(TargetError, match="class 5 is out of range"):
        RISE(unreachable)(batch(), 5)
