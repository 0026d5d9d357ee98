"""A fitted explainer as data, and its folder: `explainer.safetensors` and `explainer.json`."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as load_tensors, save as save_tensors
from torch import Tensor

from seewhy.core.io import atomic_file, first_line, json_default
from seewhy.errors import SeewhyError, WeightsError
from seewhy.methods.trained.fingerprint import Fingerprint

FORMAT = 1
RECORD, TENSORS = "explainer.json", "explainer.safetensors"


@dataclass(frozen=True)
class Fitted:
    """Everything of a fitted explainer but its encoder.

    Attributes:
        method: The method's name.
        settings: Of its networks.
        shape: What the networks have of the encoder: sizes and numbers of channels.
        encoder: The encoder that it was fitted on.
        classes: What it was trained to tell apart.
        state: Weights of its networks, and the LoRA deltas (`lora.<layer>.A`, `lora.<layer>.B`).
        training: How it was trained, for people.
        source: Where it was read from.
    """

    method: str
    settings: dict[str, Any]
    shape: dict[str, Any]
    encoder: Fingerprint
    classes: tuple[str, ...]
    state: Mapping[str, Tensor] = field(repr=False)
    training: dict[str, Any] = field(default_factory=dict[str, Any], repr=False)
    source: str = ""

    def __str__(self) -> str:
        return self.source or f"{self.method} fitted on {self.encoder.name}"

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write it into a folder; what was there before stays until all is written.

        Returns:
            The folder.

        Raises:
            SeewhyError: The folder cannot be written.
        """
        folder = Path(folder)
        tensors = save_tensors({name: value.detach().cpu().contiguous() for name, value in self.state.items()})
        record = {
            "format": FORMAT,
            "method": self.method,
            "settings": self.settings,
            "shape": self.shape,
            "encoder": self.encoder.as_dict(),
            "classes": list(self.classes),
            "training": self.training,
            "sha256": hashlib.sha256(tensors).hexdigest(),
        }
        text = json.dumps(record, indent=1, default=json_default)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with atomic_file(folder / TENSORS) as draft, atomic_file(folder / RECORD) as record_draft:
                draft.write_bytes(tensors)
                record_draft.write_text(text, "utf-8")
        except OSError as error:
            raise SeewhyError(f"cannot write to {folder} ({error.strerror or error}); choose another folder") from error
        return folder

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Fitted:
        """Read a folder that `save` wrote, or one of its two files; no code in it is ever run.

        Raises:
            WeightsError: There is no fitted explainer, or it is damaged.
        """
        place = Path(folder).expanduser()
        place = place.parent if place.name in (RECORD, TENSORS) else place
        record, tensors = place / RECORD, place / TENSORS
        if not record.is_file() or not tensors.is_file():
            raise WeightsError(
                f"{place} holds no fitted explainer ({RECORD}, {TENSORS}); pass the -o of `seewhy train`"
            )
        try:
            content = json.loads(record.read_text("utf-8"))
            data = tensors.read_bytes()
            if content["format"] != FORMAT:
                raise WeightsError(f"{place} has format {content['format']}, and this version reads {FORMAT}; update")
            if hashlib.sha256(data).hexdigest() != content["sha256"]:
                raise WeightsError(f"{TENSORS} of {place} is not the one that {RECORD} is of; copy both files again")
            return cls(
                method=str(content["method"]),
                settings=dict(content["settings"]),
                shape=dict(content["shape"]),
                encoder=Fingerprint(**content["encoder"]),
                classes=tuple(map(str, content["classes"])),
                state=load_tensors(data),
                training=dict(content["training"]),
                source=str(place),
            )
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            reason = f"no {error}" if isinstance(error, KeyError) else first_line(error, 100)
            raise WeightsError(f"{place} is damaged ({reason}); copy it again, or fit it again") from None
