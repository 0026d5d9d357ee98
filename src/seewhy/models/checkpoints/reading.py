"""Read what a checkpoint file holds; nothing in it is ever run."""

from __future__ import annotations

import argparse
import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from seewhy.core.io import first_line
from seewhy.errors import WeightsError

SUFFIXES = (".safetensors", ".pth", ".pt", ".ckpt", ".bin", ".tar", ".pt2", ".onnx")
"""How the names of checkpoint files end, and of exported models, which are refused with the way that works."""

State = Mapping[str, Tensor]
"""Weights by name, as `nn.Module.state_dict` gives them."""

MAX_EXPANSION = 20
"""How much larger than the file its content may be: torch stores weights uncompressed."""

RECORDS = {"argparse", "lightning", "lightning_fabric", "numpy", "omegaconf", "pathlib", "pl_bolts"}
RECORDS |= {"pytorch_lightning", "torchmetrics", "yacs"}
"""Packages whose objects training programs leave beside the weights; each becomes an empty record of ours."""

_GLOBAL = re.compile(r"GLOBAL ([\w.]+)")


def read_state(path: str | Path) -> dict[str, Any]:
    """Return what a checkpoint file holds, on the CPU; no code in it is ever run.

    Raises:
        WeightsError: There is no such file, it is damaged or not a checkpoint, or reading it would run code.
    """
    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"there is no file {path}; check the path")
    content = _read(path)
    if not isinstance(content, Mapping) or not content:
        raise WeightsError(f"{path} holds {type(content).__name__}, not weights by name; save model.state_dict()")
    return dict(content)


class _Record:
    """Stands for an object beside the weights, whatever its arguments: its class is not imported, its state dropped."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        """Drop the state."""


def _read(path: Path) -> Any:
    _refuse_exports(path)
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        return _unpickled(path)
    except pickle.UnpicklingError as error:
        if re.search(r"unsupported (global|class)", str(error), re.IGNORECASE) or _is_pickle(path):
            raise WeightsError(
                f"{path} holds Python objects beside weights{_named(error)}, and reading those could run code; if you "
                "trust it, open it yourself and torch.save(model.state_dict(), …)"
            ) from None
        raise _damaged(path, error) from None
    except Exception as error:  # zip, pickle and safetensors each have their own ways to be broken
        raise _damaged(path, error) from None


def _unpickled(path: Path) -> Any:
    """Read with torch's restricted unpickler, where records of known packages are stood for by empty ones."""
    # DINO's files hold the training options beside the weights, as a Namespace, which is only a record
    allowed: list[Any] = [argparse.Namespace]
    known: set[str] = set()
    while True:
        try:
            with torch.serialization.safe_globals(allowed):
                return torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            found = _GLOBAL.search(str(error))
            name = found[1] if found else ""
            if name in known or name.partition(".")[0] not in RECORDS:
                raise
            known.add(name)
            allowed.append((OrderedDict if name.endswith("Dict") else _Record, name))


def _is_pickle(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(1) == pickle.PROTO


def _named(error: Exception) -> str:
    found = _GLOBAL.search(str(error))
    return f" ({found[1]})" if found else ""


def _refuse_exports(path: Path) -> None:
    """Refuse programs, with what serves them, and archives that unpack to far more than their size."""
    if path.suffix == ".onnx":
        raise WeightsError(
            f"{path} is an ONNX model, not weights; methods that need no look inside explain it: seewhy.wrap_function("
            "lambda x: session.run(None, {name: x})[0], takes='numpy', batch_size=1) with an onnxruntime session"
        )
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        whole = sum(entry.file_size for entry in archive.infolist())
    if any(name.partition("/")[2].startswith("code/") for name in names):
        raise WeightsError(
            f"{path} is a TorchScript program, which cannot be opened up; methods that need no look inside explain it: "
            "seewhy.wrap_function(torch.jit.load(path)); for the others load its state_dict into the Python module"
        )
    if any(name.endswith(("serialized_exported_program.json", "archive_format")) for name in names):
        raise WeightsError(
            f"{path} is a program of torch.export; methods that need no look inside explain it: "
            "seewhy.wrap_function(torch.export.load(path).module(), batch_size=1); for the others save the state_dict"
        )
    if whole > MAX_EXPANSION * path.stat().st_size + 10_000_000:
        raise WeightsError(f"{path} unpacks to {whole / 1e9:.1f} GB, so it is no checkpoint of torch; get it again")


def _damaged(path: Path, error: Exception) -> WeightsError:
    reason = first_line(error, limit=120)
    if not any(map(str.isalpha, reason)):  # a KeyError says no more than its key
        reason = type(error).__name__
    return WeightsError(f"{path} is damaged or not a checkpoint ({reason}); download it again, or save it once more")
