"""Every file that seewhy reads is tried with a payload; none runs."""

from __future__ import annotations

import ast
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import seewhy
from seewhy.core.images import load_image
from seewhy.errors import SeewhyError
from seewhy.methods.trained.fingerprint import Fingerprint

SOURCE = Path(seewhy.__file__).parent


class Payload:
    """Writes a file when it is unpickled."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple:
        return exec, (f"open({str(self.place)!r}, 'w').close()",)


def pickled(path: Path, payload: Payload) -> None:
    path.write_bytes(pickle.dumps({"weight": payload}, protocol=2))


def zipped(path: Path, payload: Payload) -> None:
    torch.save({"weight": torch.ones(2, 2), "args": payload}, path)


def array(path: Path, payload: Payload) -> None:
    with path.open("wb") as file:
        np.save(file, np.array([payload], dtype=object), allow_pickle=True)


def arrays(path: Path, payload: Payload) -> None:
    with path.open("wb") as file:
        np.savez(file, coef=np.array([payload], dtype=object))


def scripted(path: Path, payload: Payload) -> None:
    zipped(path, payload)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(f"{path.stem}/code/__torch__.py", "open('x', 'w')")


WRITERS = {"pickle": pickled, "zip": zipped, "npy": array, "npz": arrays, "torchscript": scripted}


def load_explanation(path: Path) -> object:
    folder = path.parent / "explanation"
    seewhy.Explanation(torch.ones(2, 2), "lafam").save(folder)
    path.rename(folder / "map.safetensors")
    return seewhy.Explanation.load(folder)


def load_manifest(path: Path) -> object:
    folder = path.parent / "explanation"
    seewhy.Explanation(torch.ones(2, 2), "lafam").save(folder)
    path.rename(folder / "manifest.json")
    return seewhy.Explanation.load(folder)


def load_plan(path: Path) -> object:
    from seewhy.bench.plan import Plan

    return Plan.read(path)


def load_head(path: Path) -> object:
    from seewhy.models.heads import read_head

    return read_head(path)


def load_names(path: Path) -> object:
    from seewhy.models.class_names import read_class_names

    return read_class_names(path)


def load_explainer(path: Path, name: str) -> object:
    from seewhy.methods.trained.fitted import Fitted

    folder = path.parent / "explainer"
    fingerprint = Fingerprint("toy", "0", "0", "float32")
    Fitted("ala", {}, {}, fingerprint, ("a", "b"), {"weight": torch.ones(2)}).save(folder)
    path.rename(folder / name)
    return Fitted.load(folder)


def load_folder(path: Path) -> object:
    (path.parent / "config.json").write_text(json.dumps({"model_type": "vit", "auto_map": {"AutoModel": "evil.Evil"}}))
    (path.parent / "evil.py").write_text(f"open({str(path.parent / 'ran')!r}, 'w').close()")
    path.rename(path.parent / "pytorch_model.bin")
    return seewhy.load_model(path.parent)


READERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "weights": (lambda path: seewhy.load_model(path, architecture="timm/test_vit"), ".pth"),
    "safetensors": (lambda path: seewhy.load_model(path, architecture="timm/test_vit"), ".safetensors"),
    "folder of transformers": (load_folder, ".bin"),
    "head": (load_head, ".pth"),
    "head of numpy": (load_head, ".npz"),
    "head of joblib": (load_head, ".joblib"),
    "image": (load_image, ".jpg"),
    "array": (load_image, ".npy"),
    "dicom": (load_image, ".dcm"),
    "class names": (load_names, ".json"),
    "explainer": (lambda path: load_explainer(path, "explainer.safetensors"), ".safetensors"),
    "explainer's record": (lambda path: load_explainer(path, "explainer.json"), ".json"),
    "map": (load_explanation, ".safetensors"),
    "manifest": (load_manifest, ".json"),
    "plan": (load_plan, ".toml"),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("writer", WRITERS)
def test_no_payload_runs(reader: str, writer: str, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    read, suffix = READERS[reader]
    path = tmp_path / f"evil{suffix}"
    WRITERS[writer](path, Payload(ran))
    with pytest.raises(SeewhyError):
        read(path)
    assert not ran.exists()


def test_the_payload_would_run(tmp_path: Path) -> None:
    pickled(tmp_path / "evil", Payload(tmp_path / "ran"))
    pickle.loads((tmp_path / "evil").read_bytes())
    assert (tmp_path / "ran").exists()


def test_options_that_run_code_are_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    for option in ("trust_remote_code", "weights_only"):
        with pytest.raises(SeewhyError, match=f"never runs code .* takes no {option}"):
            seewhy.load_model(tmp_path, pretrained=False, **{option: True})


def test_a_small_file_does_not_unpack_to_gigabytes(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb/data/0", bytes(60_000_000))
    with pytest.raises(SeewhyError, match=r"unpacks to 0\.1 GB"):
        seewhy.load_model(tmp_path / "bomb.pth", architecture="timm/test_vit")


def calls() -> list[tuple[str, str, ast.Call]]:
    found = []
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call):
                found.append((path.relative_to(SOURCE).as_posix(), ast.unparse(node.func), node))
    return found


def test_no_reader_is_left_out() -> None:
    """What could run a file's code is called with the option that forbids it; one file imports a person's own code."""
    for path, name, call in calls():
        options = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        if name in ("torch.load", "torch.hub.load_state_dict_from_url"):
            assert options.get("weights_only") == "True", path
        if name in ("np.load", "numpy.load"):
            assert options.get("allow_pickle", "False") == "False", path
        assert name not in ("pickle.load", "pickle.loads", "joblib.load", "yaml.load", "torch.hub.load", "exec"), path
        assert name != "eval" or path == "core/options.py", path  # of annotations in the source of a method
        if name == "spec.loader.exec_module":
            assert path == "cli/loading.py"
