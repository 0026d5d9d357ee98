"""A short walk through everything that the library alone can do, for environments in which the test suite cannot run.

    python scripts/smoke.py --without timm zennit        # these must not be importable here

The lanes of CI run it: with no extras, with the oldest declared versions, and with the installed wheel. It imports
`tests/toys.py` for models whose inside is known, and otherwise only what is installed.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1] / "tests"


def run(*words: str, folder: Path) -> str:
    """Run seewhy's command line as a person would and return what it prints; a non-zero exit status is an error."""
    command = [str(Path(sys.executable).with_name("seewhy")), *words]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    print(f"ok  seewhy {' '.join(words)}", flush=True)
    return done.stdout


def command_line(folder: Path) -> None:
    """Help, lists, an explanation and a comparison of a image that is drawn here."""
    from seewhy.data import Scenes

    Scenes("single", n=1)[0].image.save(folder / "image.png")
    for words in (["--help"], ["methods"], ["metrics"], ["models"], ["methods", "rise"], ["data", "list"]):
        run(*words, folder=folder)
    explained = run(
        "explain", "image.png", "--model", "scenes_vit", "-M", "cdam", "-M", "attention_map", "--json", folder=folder
    )
    rows = json.loads(explained)
    assert len(rows) == 2, explained
    assert not any(row["error"] for row in rows), explained
    assert next((folder / "out" / "explain").rglob("grid.png")).stat().st_size > 1000
    run("explain", "image.png", "--model", "scenes_cnn", "-M", "grad_cam", folder=folder)
    run("info", "scenes_cnn", folder=folder)


def contracts() -> None:
    """Run the public checks on toys: a method of each kind, metrics with and without a model, an adapter, a dataset."""
    import toys

    from seewhy.checks import check_dataset, check_method, check_metric, check_model
    from seewhy.data import Scenes
    from seewhy.methods import CDAM, RISE, GradCAM, Saliency
    from seewhy.metrics import Deletion, PointingGame

    for model in (toys.toy_cnn(), toys.toy_vit()):
        check_model(model)
    for method, model in ((GradCAM, toys.toy_cnn()), (Saliency, toys.toy_cnn()), (CDAM, toys.toy_vit())):
        check_method(method, model)
    check_method(RISE, toys.toy_cnn())
    check_metric(PointingGame)
    check_metric(Deletion, toys.toy_cnn())
    check_dataset(Scenes("multi", n=4))
    print("ok  contract checks on toys", flush=True)


def models(names: list[str]) -> None:
    """Load a model of each source that is named, with random weights, and explain a batch."""
    from torchvision_ops import define_missing_operators

    import seewhy
    from seewhy.data import Scenes

    operators = define_missing_operators()  # alive until the end of this function

    images = [item.image for item in Scenes("single", n=2)]
    for name in names:
        model = seewhy.load_model(name, pretrained=False)
        maps = seewhy.methods.GradCAM(model)(model.preprocess_images(images), target=1)
        assert len(maps) == 2
        print(f"ok  {name}", flush=True)
    del operators


def main() -> None:
    """Check that what must be absent is absent, then walk."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--without", nargs="*", default=[], help="packages that must not be installed")
    parser.add_argument("--models", nargs="*", default=[], help="models to load with random weights")
    arguments = parser.parse_args()
    present = [name for name in arguments.without if importlib.util.find_spec(name)]
    if present:
        sys.exit(f"this environment must not hold {', '.join(present)}: something requires it; see pyproject.toml")
    sys.path.insert(0, str(TESTS))
    import seewhy

    print(f"seewhy {seewhy.__version__} from {Path(seewhy.__file__).parent}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        command_line(Path(folder))
    models(arguments.models)
    contracts()
    print("smoke: 1 passed, 0 failed")


if __name__ == "__main__":
    main()
