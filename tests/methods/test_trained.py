"""Trained explainers: their equations, what is trained when, and that the encoder leaves as it came."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path

import pytest
import torch
import toys
import trained
from torch.nn import functional as F

from seewhy.checks.state import PassCounter, StateSnapshot
from seewhy.core.cards import Passes
from seewhy.errors import (
    DataError,
    NonFiniteError,
    OptionError,
    RequirementError,
    SeewhyError,
    UnknownNameError,
    WeightsError,
)
from seewhy.methods import ABN, ALA
from seewhy.methods.factory import as_method
from seewhy.methods.rebind import rebind
from seewhy.methods.trained.ala_net import ALASettings
from seewhy.methods.trained.fitted import RECORD, TENSORS
from seewhy.methods.trained.levels import read_levels
from seewhy.training.explainers import ALATask, fit_explainer
from seewhy.training.labeled import Augmentation, LabeledImages


@pytest.fixture
def vit():
    return toys.toy_vit()


def ala_task(model, **networks):
    settings = ALASettings(**{**trained.SMALL["ala"], **networks})
    torch.manual_seed(0)
    return ALATask(model, ("a", "b", "c"), settings, toys.batch())


def weights_of(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


# ── equations ─────────────────────────────────────────────────────────────────────────────────────────────────────────
def test_level_0_enters_the_first_block_and_level_i_leaves_block_i(vit):
    x, module = toys.batch(), vit.module.eval()
    tokens = module.embed(x)
    for level in range(4):
        expected = tokens[:, 1:].transpose(1, 2).unflatten(2, (4, 6))
        torch.testing.assert_close(read_levels(vit, x, [level])[level], expected)
        tokens = module.blocks[level](tokens) if level < 3 else tokens
    assert read_levels(vit, x, []) == {}


def test_levels_are_the_stem_and_every_quarter_of_the_depth():
    assert ALASettings().levels(12) == (0, 3, 6, 9)
    assert ALASettings(taps=[0, 1, 2, 3]).levels(12) == (0, 1, 2, 3)
    assert ALASettings(taps=[]).levels(12) == ()


def test_the_map_is_the_side_transformers_with_the_encoders_features_added(vit):
    """Section 4.2 written out: patches, features added before layers 1 and 2, a convolution, a sigmoid."""
    ala = trained.fit("ala", vit, networks={"lora_rank": 0})
    x, net = toys.batch(), ala.net
    features = read_levels(vit, x, [0, 2])
    side = net.side.embed(x) + net.side.positions
    for level, fuse, layer in zip((0, 2), net.side.fuse, net.side.layers, strict=True):
        normalized = F.layer_norm(features[level].movedim(1, -1), (16,), fuse[0].weight, fuse[0].bias)
        side = (
            side + torch.einsum("bhwc,dc->bdhw", normalized, fuse[1].weight[:, :, 0, 0]) + fuse[1].bias[:, None, None]
        )
        t = side.flatten(2).transpose(1, 2)
        t = t + layer.self_attn(*[layer.norm1(t)] * 3, need_weights=False)[0]
        t = t + layer.linear2(F.gelu(layer.linear1(layer.norm2(t))))
        side = t.transpose(1, 2).unflatten(2, (4, 6))
    expected = net.to_map(net.side.norm(side)).sigmoid().squeeze(1)
    torch.testing.assert_close(ala(x), expected.detach(), atol=1e-5, rtol=1e-4)


def test_the_classifier_sees_the_last_block_weighted_by_the_map(vit):
    ala = trained.fit("ala", vit, networks={"lora_rank": 0})
    x, net = toys.batch(), ala.net
    deep = net.norm(read_levels(vit, x, [3])[3])
    logits = net.perception(ala(x)[:, None] * deep)
    torch.testing.assert_close(ala.classifier.run(x).logits, logits, atol=1e-5, rtol=1e-4)
    even = net(x, read_levels(vit, x, [0, 2, 3]), ones=True)
    torch.testing.assert_close(even.logits, net.perception(deep))


@pytest.mark.parametrize(("seen", "inputs"), [("map", 1), ("features", 8)])
def test_what_f2_classifies_is_an_option(vit, seen, inputs):
    assert ala_task(vit, attention_input=seen).net.attention_classifier[0].in_channels == inputs


def test_lora_by_hooks_is_lora_of_peft_and_of_merged_weights(vit):
    task = ala_task(vit)
    with torch.no_grad():
        for parts in task.layers.trained:
            parts["B"].weight.normal_(0, 0.2)
    x = toys.batch()
    task.module.eval()
    with task.holding(), torch.no_grad():
        expected = task.output(x, None)
    method = ALA(vit, weights=task.fitted("ala", {}))
    torch.testing.assert_close(method(x), expected.attention, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(method.classifier.run(x).logits, expected.logits, atol=1e-5, rtol=1e-4)
    merged = copy.deepcopy(vit)
    with torch.no_grad():
        for key, a in task.deltas().items():
            if key.endswith(".A"):
                layer = merged.submodule(key[len("lora.") : -2])
                layer.weight += 16.0 / 2 * task.deltas()[key[:-1] + "B"] @ a
    plain = ALA(merged, weights=ala_without_lora(method), verify=False)
    torch.testing.assert_close(method(x), plain(x), atol=1e-5, rtol=1e-4)
    assert not torch.allclose(method(x), ALA(vit, weights=ala_without_lora(method))(x), atol=1e-3)


def ala_without_lora(method):
    from dataclasses import replace

    state = {key: value for key, value in method.fitted.state.items() if not key.startswith("lora.")}
    return replace(method.fitted, state=state)


def test_the_attention_branchs_map_and_classifier(agree):
    model = toys.toy_cnn()
    abn = trained.fit("abn", model)
    x = toys.batch()
    features = model.activations(x, [model.layer("stage2")])["stage2"]
    normalized = abn.net.norm(features)
    scores = abn.net.branch(normalized)
    conv, norm, _ = abn.net.to_map
    logits = F.conv2d(scores, conv.weight, padding=1)
    deviation = (norm.running_var + norm.eps).sqrt()
    attention = torch.sigmoid((logits - norm.running_mean) / deviation * norm.weight + norm.bias)
    agree("ABN", "written out", abn(x), attention.squeeze(1), 1e-5)
    answer = abn.net.perception(normalized * attention + normalized)
    agree("ABN", "x·a + x", abn.classifier.run(x).logits, answer, 1e-5)
    shallow = trained.fit("abn", model, networks={"layer": "stage1"})
    assert shallow(x).shape == (2, 16, 24)


# ── training ──────────────────────────────────────────────────────────────────────────────────────────────────────────
def test_even_epochs_train_the_perception_branch_and_lora_only(vit):
    task = ala_task(vit)
    batch = {"image": toys.batch(4), "label": torch.tensor([0, 1, 2, 0])}
    optimizer = torch.optim.AdamW(task.module.parameters(), lr=0.1, weight_decay=0.1)
    for epoch, learns in ((0, True), (1, False), (2, True)):
        before = weights_of(task.module)
        task.start_epoch(epoch)
        with task.holding():
            task.loss(batch, epoch)["loss"].backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        changed = {name for name, value in task.module.state_dict().items() if not torch.equal(value, before[name])}
        adapter = {name for name in before if name.startswith(("net.side", "net.to_map", "net.attention_classifier"))}
        assert bool(changed & adapter) == learns
        assert any(name.startswith("net.perception") for name in changed)
        assert any(name.startswith("lora") for name in changed)
    always = ala_task(vit, alternate=False)
    assert not any(always.is_even(epoch) for epoch in range(4))


def test_in_even_epochs_the_map_is_left_out(vit):
    task = ala_task(vit, lora_rank=0)
    x = toys.batch()
    with torch.no_grad():
        even = task.output(x, 1)
        task.net.to_map.bias += 3
        assert torch.equal(task.output(x, 1).logits, even.logits)
        assert not torch.equal(task.output(x, 0).logits, even.logits)


def test_training_learns_and_the_encoder_leaves_bit_for_bit_as_it_came(vit):
    vit.module.train()
    vit.module.blocks[1].eval()
    vit.module.head.requires_grad_(False)
    snapshot = StateSnapshot(vit.module)
    ala = trained.fit("ala", vit, n=24, epochs=12)
    snapshot.ensure_unchanged("after training")
    data = LabeledImages(trained.Squares(24), vit)
    answers = ala.classifier.run(data.batch(range(24), None)["image"]).logits.argmax(1)
    assert (answers == data.batch(range(24), None)["label"]).float().mean() > 0.8


def test_a_loss_that_is_no_number_stops_names_the_images_and_leaves_the_encoder(vit):
    class Broken(LabeledImages):
        def sample(self, index, rng):
            value = super().sample(index, rng)
            return {**value, "image": value["image"] * (float("nan") if index == 5 else 1)}

    snapshot = StateSnapshot(vit.module)
    with pytest.raises(NonFiniteError, match=r"the loss is nan .*square5"):
        trained.fit("ala", vit, data=Broken(trained.Squares(), vit))
    snapshot.ensure_unchanged("after a broken image")


def test_the_same_seed_gives_the_same_weights(vit):
    first, again, other = (trained.fit("ala", vit, epochs=1, seed=seed).fitted.state for seed in (1, 1, 2))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not all(torch.equal(first[key], other[key]) for key in first)


def test_a_run_that_was_cut_off_in_an_epoch_ends_in_the_bits_of_an_unbroken_one(vit, tmp_path):
    class Cut(LabeledImages):
        left = 10**9

        def sample(self, index, rng):
            self.left -= 1
            if self.left < 0:
                raise KeyboardInterrupt
            return super().sample(index, rng)

    def run(out, left=10**9, resume=False):
        data = Cut(trained.Squares(), vit, augmentation=Augmentation())
        data.left = left
        networks = {"lora_dropout": 0.5}
        return trained.fit("ala", vit, data=data, out=tmp_path / out, every=1, resume=resume, networks=networks)

    whole = run("whole").fitted.state
    snapshot = StateSnapshot(vit.module)
    with pytest.raises(KeyboardInterrupt):
        run("cut", left=1 + 12 + 6 + 2)  # in the second step of the second epoch, which is an even one
    snapshot.ensure_unchanged("after an interrupt")
    again = run("cut", resume=True).fitted.state
    assert all(torch.equal(whole[key], again[key]) for key in whole)


def test_augmented_images_are_crops_that_may_be_mirrored():
    import numpy as np
    from PIL import Image

    image = Image.fromarray(np.arange(100, dtype=np.uint8).reshape(10, 10)).convert("RGB")
    sizes, mirrored = set(), 0
    for seed in range(50):
        made = np.asarray(Augmentation(crop=0.5)(image, np.random.default_rng(seed)))[..., 0].astype(int)
        sizes.add(made.shape[0])
        step = made[0, 1] - made[0, 0]
        mirrored += step < 0
        assert abs(step) == 1
        assert (made[1] - made[0] == 10).all()
    assert min(sizes) >= 5
    assert len(sizes) > 3
    assert 10 < mirrored < 40
    assert Augmentation(flip=False, crop=1.0)(image, np.random.default_rng(0)).tobytes() == image.tobytes()


# ── cost ──────────────────────────────────────────────────────────────────────────────────────────────────────────────
def test_explaining_runs_the_encoder_once_up_to_the_deepest_level(vit):
    method = trained.fit("ala", vit)
    counter = PassCounter(vit)
    method(toys.batch())
    assert counter.passes("blocks.0") == counter.passes("blocks.1.mlp.2") == Passes(2)
    assert counter.passes("blocks.2.mlp.2") == counter.passes("head") == Passes(0)
    blind = trained.fit("ala", vit, networks={"taps": [], "lora_rank": 0})
    counter = PassCounter(vit)
    assert blind(toys.batch()).shape == (2, 4, 6)
    assert counter.passes("blocks.0") == Passes(0)
    assert blind.cost.forward == 0


def test_explaining_costs_less_than_one_and_a_third_forwards():
    """Counted in operations, with the paper's eight layers of width 64 on as many patches as the encoder has."""
    from torch.utils.flop_counter import FlopCounterMode

    import seewhy

    model = seewhy.load_model("scenes_vit", device="cpu")
    task = ALATask(model, ("a", "b"), ALASettings(patch=8, lora_blocks=[0, 1, 2, 3, 4]), torch.zeros(1, 3, 96, 96))
    method = ALA(model, weights=task.fitted("ala", {}))
    x = torch.rand(1, 3, 96, 96)
    with torch.no_grad(), FlopCounterMode(display=False) as own:
        model.module(x)
    with FlopCounterMode(display=False) as explaining:
        method(x)
    assert 0.5 < explaining.get_total_flops() / own.get_total_flops() < 1.3


# ── files ─────────────────────────────────────────────────────────────────────────────────────────────────────────────
def test_what_is_saved_is_what_is_loaded_and_holds_no_weight_of_the_encoder(vit, tmp_path):
    ala = trained.fit("ala", vit, out=tmp_path / "run")
    ala.save(tmp_path / "copy")
    x = toys.batch()
    for place in ("run", "copy", f"copy/{RECORD}"):
        again = as_method(vit, "ala", weights=str(tmp_path / place))
        assert torch.equal(again(x), ala(x))
        assert again.classes == ("red", "green", "blue")
    assert torch.equal(ALA.load(vit, tmp_path / "run")(x), ala(x))
    for own in vit.module.parameters():
        assert not any(own.shape == value.shape and torch.equal(own, value) for value in ala.fitted.state.values())
    assert json.loads((tmp_path / "run" / RECORD).read_text())["encoder"]["name"] == "toy_vit"


def test_other_weights_and_other_architectures_are_refused_in_a_line(vit, tmp_path):
    ala = trained.fit("ala", vit, out=tmp_path / "run")
    with pytest.raises(WeightsError, match="fitted on toy_vit, and here toy_vit is with other weights; load the same"):
        ALA(toys.toy_vit(seed=1), weights=tmp_path / "run")
    with pytest.raises(WeightsError, match="toy_vit is another architecture"):
        ALA(toys.toy_vit(dim=32), weights=tmp_path / "run")
    half = toys.toy_vit()
    half.module.bfloat16()
    with pytest.raises(
        WeightsError, match="here toy_vit is in bfloat16, not float32; load the same weights in float32"
    ):
        ALA(half, weights=tmp_path / "run")
    other_head = toys.toy_vit()
    torch.nn.init.zeros_(other_head.module.head.weight)
    assert torch.equal(ALA(other_head, weights=tmp_path / "run")(toys.batch()), ala(toys.batch()))
    with pytest.raises(WeightsError, match="is of ala, not of abn; use that method"):
        ABN(vit, weights=tmp_path / "run")
    random = rebind(ala, toys.toy_vit(seed=1))
    assert not torch.allclose(random(toys.batch()), ala(toys.batch()))


def test_damaged_files_and_no_files_are_refused_in_a_line(vit, tmp_path):
    with pytest.raises(RequirementError, match=r"is trained before it explains: `seewhy train ala PLAN -o RUN`"):
        ALA(vit)
    with pytest.raises(WeightsError, match=r"holds no fitted explainer \(explainer.json"):
        ALA(vit, weights=tmp_path)
    with pytest.raises(OptionError, match="must be the folder"):
        ALA(vit, weights=3)
    trained.fit("ala", vit, out=tmp_path / "run", epochs=1)
    for name, damage, words in (
        (TENSORS, lambda path: path.write_bytes(path.read_bytes()[:-8]), "is not the one that explainer.json is of"),
        (RECORD, lambda path: path.write_text("{"), "is damaged"),
        (RECORD, lambda path: path.write_text('{"format": 1}'), "is damaged"),
        (RECORD, lambda path: path.write_text(path.read_text().replace('"width": 8', '"width": 6')), "does not fit"),
    ):
        bad = shutil.copytree(tmp_path / "run", tmp_path / "bad", dirs_exist_ok=True)
        damage(bad / name)
        with pytest.raises(WeightsError, match=words):
            ALA(vit, weights=bad)


def test_on_a_full_disk_what_was_there_before_stays(vit, tmp_path, monkeypatch):
    trained.fit("ala", vit, epochs=1).save(tmp_path / "run")
    before = ALA.load(vit, tmp_path / "run")(toys.batch())
    other = trained.fit("ala", vit, epochs=2)

    def full(self, *args, **kwargs):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", full)
        with pytest.raises(SeewhyError, match=r"cannot write to .*run \(No space left on device\)"):
            other.save(tmp_path / "run")
    assert torch.equal(ALA.load(vit, tmp_path / "run")(toys.batch()), before)
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [RECORD, TENSORS]


# ── bad input ─────────────────────────────────────────────────────────────────────────────────────────────────────────
def test_what_cannot_be_trained_says_so(vit):
    data = LabeledImages(trained.Squares(), vit)
    with pytest.raises(RequirementError, match="cannot be fitted to toy_cnn: it needs patch tokens"):
        fit_explainer("ala", toys.toy_cnn(), data)
    with pytest.raises(UnknownNameError, match="did you mean 'ala'"):
        fit_explainer("alla", vit, data)
    with pytest.raises(DataError, match=r"Squares all has 1 class \(red\), and there is nothing to tell apart"):
        LabeledImages(trained.Squares(), vit, classes=[0])
    with pytest.raises(DataError, match="square1 shows none of the classes"):
        LabeledImages(trained.Squares(), vit, classes=[0, 2]).sample(1, None)
    with pytest.raises(DataError, match="tell other classes apart"):
        fit_explainer("ala", vit, data, validation=LabeledImages(trained.Squares(), vit, classes=[0, 1]))
    with pytest.raises(DataError, match="have no samples"):
        fit_explainer("ala", vit, LabeledImages(trained.Squares(0), vit))
    for networks, words in (
        ({"head": 8}, "did you mean 'heads'"),
        ({"width": 7}, "no multiple of heads"),
        ({"taps": [9]}, "not levels of an encoder of 3 blocks"),
        ({"taps": [0, 1, 2], "layers": 2}, "3 taps for 2 side layers"),
        ({"lora_blocks": [3]}, "there are 3 blocks"),
        ({"kernel": 2}, "even"),
    ):
        with pytest.raises(OptionError, match=words):
            trained.fit("ala", vit, networks=networks)
