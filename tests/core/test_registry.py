"""A registry finds what its package holds; a module that does not load costs its own entries only."""

from __future__ import annotations

import sys

import pytest
import toys

from seewhy.core.registry import Registry
from seewhy.errors import MissingExtraError, RequirementError, UnknownNameError
from seewhy.methods import METHODS, Rollout

THINGS: Registry[str]


@pytest.fixture
def things(tmp_path, monkeypatch) -> Registry[str]:
    """A registry of a package with one good module and two that do not load."""
    package = tmp_path / "things_of_a_test"
    package.mkdir()
    register = "from test_registry import THINGS\nTHINGS.add(__name__.split('.')[1], 'a thing')\n"
    (package / "__init__.py").touch()
    (package / "brick.py").write_text(register)
    (package / "cracked.py").write_text("import no_such_library\n" + register)
    (package / "torn.py").write_text("raise OSError('libGL.so.1: cannot open shared object file')\n" + register)
    registry: Registry[str] = Registry("thing", package=package.name)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(globals(), "THINGS", registry)
    monkeypatch.setitem(sys.modules, "test_registry", sys.modules[__name__])
    yield registry
    for name in [name for name in sys.modules if name.startswith(package.name)]:
        del sys.modules[name]


def test_a_module_that_does_not_load_costs_its_own_entries_only(things):
    with pytest.warns(UserWarning, match="its thing is missing") as warned:
        assert things.names() == ["brick"]
    assert [str(each.message).split(",")[0] for each in warned] == [
        "things_of_a_test.cracked does not load",
        "things_of_a_test.torn does not load",
    ]
    assert "No module named 'no_such_library'" in str(warned[0].message)
    assert things["Brick"] == "a thing"
    with pytest.raises(UnknownNameError, match="did you mean 'brick'"):
        things["bricks"]
    for name, reason in (("cracked", "no_such_library"), ("torn", "libGL")):
        assert name not in things
        with pytest.raises(MissingExtraError, match=f"the thing '{name}' does not load .*{reason}.*; reinstall"):
            things[name]


def test_a_method_module_that_does_not_load_leaves_the_errors_of_others_as_they_are(monkeypatch):
    monkeypatch.setattr(METHODS, "_filled", False)
    monkeypatch.setattr(METHODS, "_broken", {})
    monkeypatch.setitem(sys.modules, "seewhy.methods.perturbation.rise", None)
    with (
        pytest.warns(UserWarning, match=r"perturbation\.rise does not load, so its method is missing"),
        pytest.raises(RequirementError, match=r"Attention rollout cannot serve .*; these can: .*grad_cam"),
    ):
        Rollout(toys.toy_cnn())
