"""Sources of models: each is whole, another package can add one, and a broken one costs only itself."""

from __future__ import annotations

import importlib.metadata
import re
import sys
from types import SimpleNamespace

import pytest
import torch
from toys import ToyCNN, toy_cnn

import seewhy
from seewhy.checks import ContractError, check_source
from seewhy.errors import OptionError, UnknownNameError
from seewhy.models import load
from seewhy.models.load import list_models, load_model, source_of, source_packages
from seewhy.models.sources import base
from seewhy.models.sources.base import SOURCES, SourceRegistry, missing_parts

EXAMPLES = {
    "efficientnet_lite": "efficientnet_lite0",
    "hf": None,
    "open_clip": None,
    "scenes": None,
    "timm": "test_vit",
    "torchvision": "squeezenet1_1",
}


# ── ours ──────────────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("name", EXAMPLES)
def test_our_sources_keep_the_contract(name: str) -> None:
    check_source(SOURCES[name], EXAMPLES[name])


def test_every_source_is_checked_here_and_named_where_models_are_loaded() -> None:
    assert set(SOURCES) == set(EXAMPLES)
    for name, source in SOURCES.items():
        known = [source.PREFIX] if source.PREFIX else source.names()
        assert any(word in (load_model.__doc__ or "") for word in known), f"load_model's docstring leaves out {name}"


def test_extras_and_distributions_are_those_of_the_package() -> None:
    """One place says what a source needs; what pip is told stands in pyproject."""
    requirements = [re.sub(r"[-_.]+", "-", line.lower()) for line in importlib.metadata.requires("seewhy") or []]
    for source in SOURCES.values():
        extra = source.EXTRA.replace("_", "-")
        for distribution in source.DISTRIBUTIONS:
            pattern = rf"{distribution.replace('_', '-')}\b.*extra == ['\"]{extra}['\"]"
            assert any(re.match(pattern, line) for line in requirements), (distribution, extra)
    assert {"timm", "torchvision", "transformers", "open_clip_torch"} <= set(source_packages())


# ── another package's ─────────────────────────────────────────────────────────────────────────────────────────────────
def toy_source(**changes) -> SimpleNamespace:
    """A whole source of one model, with some parts changed (None: taken away)."""

    def names(pattern="*"):
        import fnmatch

        return fnmatch.filter(["cnn", "other"], pattern)

    def load(name, *, pretrained=True, **options):
        if name != "cnn":
            raise UnknownNameError("toy model", name, ["cnn"])
        if options:
            raise OptionError(f"unknown option {next(iter(options))!r}; leave it out")
        model = toy_cnn()
        model.module.eval()
        return model

    parts = {
        "__name__": "toy_source",
        "PREFIX": "toys/",
        "PACKAGE": "toys",
        "DISTRIBUTIONS": ("toys",),
        "EXTRA": "",
        "names": names,
        "load": load,
        "recognizes": lambda module: isinstance(module, ToyCNN),
        "structure": lambda module: toy_cnn().structure,
        "preprocess": lambda module: toy_cnn().preprocess,
        "tower": lambda module: module,
    }
    return SimpleNamespace(**{name: part for name, part in (parts | changes).items() if part is not None})


def entry_point(name: str, entry: object) -> SimpleNamespace:
    """What importlib.metadata gives for an installed package; an exception is raised where it is loaded."""

    def load() -> object:
        if isinstance(entry, Exception):
            raise entry
        return entry

    return SimpleNamespace(name=name, value=f"{name}:source", load=load, dist=SimpleNamespace(name=f"{name}-package"))


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch):
    """Installs sources of other packages, for one test."""

    def install(**entries: object) -> SourceRegistry:
        points = [entry_point(name, entry) for name, entry in entries.items()]
        real = importlib.metadata.entry_points
        fake = lambda **select: points if select.get("group") == "seewhy.models" else real(**select)  # noqa: E731
        monkeypatch.setattr(importlib.metadata, "entry_points", fake)
        registry = SourceRegistry()
        monkeypatch.setattr(load, "SOURCES", registry)
        monkeypatch.setattr("seewhy.models.catalog.SOURCES", registry)
        monkeypatch.setattr(base, "SOURCES", registry)
        return registry

    return install


def test_another_package_adds_a_source(installed) -> None:
    installed(toys=toy_source())
    assert list_models("toys/*") == ["toys/cnn", "toys/other"]
    model = load_model("toys/cnn", device="cpu")
    assert model.run(torch.randn(2, 3, 32, 48)).logits.shape == (2, 5)
    assert source_of(model.module).PREFIX == "toys/"
    assert seewhy.wrap(model.module).structure == toy_cnn().structure
    assert "toys" in source_packages()
    with pytest.raises(UnknownNameError, match="toys/cnn"):
        load_model("cnn")


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        (ImportError("no module named 'libtoys'"), "no module named 'libtoys'"),
        (toy_source(names=None), r"names must be a function \(pattern\)"),
        (toy_source(PREFIX="timm/"), "another source has the prefix 'timm/'"),
    ],
)
def test_a_source_that_cannot_be_used_warns_and_costs_only_itself(installed, entry, says) -> None:
    registry = installed(broken=entry, toys=toy_source())
    with pytest.warns(UserWarning, match=rf"broken-package declares the model source 'broken'.*{says}.*uninstall"):
        assert "toys" in registry
    assert "broken" not in registry
    assert load_model("efficientnet_lite0", pretrained=False, device="cpu").classes == 1000


def test_a_source_that_fails_in_use_warns_and_costs_only_itself(installed) -> None:
    def fail(*_):
        raise RuntimeError("broken inside")

    installed(failing=toy_source(PREFIX="failing/", names=fail, recognizes=fail))
    with pytest.warns(UserWarning, match="'toy_source' cannot list its models .*broken inside"):
        assert "scenes_vit" in list_models()
    with pytest.warns(UserWarning, match="'toy_source' cannot tell whether it knows a module"):
        assert source_of(torch.nn.Linear(2, 2)) is None


def test_libraries_that_are_not_in_use_are_not_asked(installed) -> None:
    asked = []
    installed(idle=toy_source(PACKAGE="not_imported", recognizes=asked.append))
    assert "not_imported" not in sys.modules
    assert source_of(torch.nn.Linear(2, 2)) is None
    assert asked == []


# ── saboteurs: each check notices what it is for ──────────────────────────────────────────────────────────────────────
def load_in_training(name, *, pretrained=True):
    model = toy_source().load(name)
    model.module.train()
    return model


@pytest.mark.parametrize(
    ("check", "changes"),
    [
        ("check_source_parts", {"structure": None}),
        ("check_source_parts", {"load": lambda name: toy_cnn()}),
        ("check_source_parts", {"DISTRIBUTIONS": "toys"}),
        ("check_source_parts", {"PREFIX": "toys"}),
        ("check_source_names", {"names": lambda pattern="*": ["cnn", "other"]}),
        ("check_source_names", {"names": lambda pattern="*": ["toys/cnn"] if pattern != "no such model" else []}),
        ("check_foreign_module", {"recognizes": lambda module: True}),
        ("check_foreign_module", {"recognizes": lambda module: module.stage1 is not None}),
        ("check_unknown_model", {"load": lambda name, *, pretrained=True: toy_source().load("cnn")}),
        ("check_unknown_model", {"load": lambda name, *, pretrained=True: {"cnn": toy_source().load("cnn")}[name]}),
        ("check_loaded_model", {"load": load_in_training}),
        ("check_loaded_model", {"recognizes": lambda module: False}),
        ("check_loaded_model", {"structure": lambda module: seewhy.models.Structure("toy", head="head")}),
        ("check_source_extras", {"preprocess": lambda module: None}),
        ("check_source_extras", {"tower": lambda module: module.stage1}),
    ],
)
def test_a_saboteur_is_found(check: str, changes: dict) -> None:
    with pytest.raises(ContractError) as caught:
        check_source(toy_source(**changes), "cnn")
    assert caught.value.check == check


def test_a_whole_source_passes_and_says_what_did_not_apply() -> None:
    assert check_source(toy_source(), "cnn") == {}
    assert set(check_source(toy_source())) == {"check_loaded_model", "check_source_extras"}
    assert missing_parts(toy_source(preprocess=None, tower=None)) == []
