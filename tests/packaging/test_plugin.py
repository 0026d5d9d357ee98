"""Another package adds its own methods, metrics, datasets and models by entry points, without a fork."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PLUGIN = Path(__file__).parent / "plugin"


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> dict[str, str]:
    """An environment in which the plugin is installed by pip, in a folder of its own."""
    folder = tmp_path_factory.mktemp("plugin")
    source = folder / "source"
    subprocess.run(["cp", "-r", PLUGIN, source], check=True)  # the build writes into it
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--target", folder / "site", source], check=True, capture_output=True)
    paths = [str(folder / "site"), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def run(environment: dict[str, str], *command: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True, cwd=cwd)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def test_python_sees_what_the_plugin_adds_and_it_passes_the_checks(installed) -> None:
    code = """
import warnings
import seewhy
from seewhy.checks import check_dataset, check_method, check_metric, check_model, check_source

with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    model = seewhy.load_model("plugin/net")
    assert "plugin_gradient" in seewhy.list_methods()
assert [w for w in caught if "seewhy-plugin" in str(w.message) and "broken" in str(w.message)], caught
check_model(model)
check_method(seewhy.methods.METHODS["plugin_gradient"], model)
check_metric(seewhy.metrics.METRICS["plugin_positive_share"])
data = seewhy.load_data("plugin_squares")
check_dataset(data)
from seewhy_plugin import models
check_source(models)
assert "plugin/net" in seewhy.list_models()
assert seewhy.wrap(models.Net()).structure.source == "plugin"
assert "grad_cam" in seewhy.methods.METHODS  # the broken one cost only itself
print(tuple(seewhy.explain(model, data[0].image, "plugin_gradient").attribution.shape))
"""
    assert run(installed, "-c", code).stdout.endswith("(32, 32)\n")


@pytest.mark.parametrize(
    ("command", "name"),
    [
        (["methods"], "plugin_gradient"),
        (["metrics"], "plugin_positive_share"),
        (["data", "list"], "plugin_squares"),
        (["models", "plugin/*"], "plugin/net"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_command_line_lists_it(installed, command, name) -> None:
    shown = run({**installed, "COLUMNS": "200"}, "-c", "from seewhy.cli import main; main()", *command)
    assert name in shown.stdout
    assert command == ["methods"] or "Traceback" not in shown.stderr
