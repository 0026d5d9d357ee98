"""LoRA layers of `peft` around an encoder's linear layers, for training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from seewhy.errors import require
from seewhy.methods.trained.ala_net import ALASettings
from seewhy.methods.trained.lora import PREFIX

_ADAPTER = "default"


class LoRALayers:
    """What replaces the linear layers while they are adapted.

    Args:
        layers: The encoder's own layers by name; they are not changed.
        settings: Rank, α and dropout.

    Raises:
        MissingExtraError: `peft` is not installed.
    """

    def __init__(self, layers: Mapping[str, nn.Linear], settings: ALASettings) -> None:
        self.replacements: dict[str, nn.Module] = {}
        self.trained = nn.ModuleList()
        self._matrices: dict[str, nn.Linear] = {}
        if not layers:
            return
        peft = require("peft", "train")
        # peft gets stand-ins: it would freeze the encoder's own layers for good
        stand_ins = {str(i): nn.Linear(base.in_features, base.out_features) for i, base in enumerate(layers.values())}
        holder = nn.ModuleDict(stand_ins)
        config = peft.LoraConfig(
            r=settings.lora_rank,
            lora_alpha=settings.lora_alpha,
            lora_dropout=settings.lora_dropout,
            target_modules=list(stand_ins),
        )
        peft.inject_adapter_in_model(config, holder, adapter_name=_ADAPTER)
        for i, (name, base) in enumerate(layers.items()):
            layer: Any = holder[str(i)]
            layer.base_layer = base
            self.replacements[name] = layer
            a, b = layer.lora_A[_ADAPTER], layer.lora_B[_ADAPTER]
            self._matrices |= {f"{PREFIX}{name}.A": a, f"{PREFIX}{name}.B": b}
            parts = nn.ModuleDict({"A": a, "B": b, "dropout": layer.lora_dropout[_ADAPTER]})
            self.trained.append(parts.to(base.weight.device, torch.promote_types(base.weight.dtype, torch.float32)))

    def deltas(self) -> dict[str, Tensor]:
        """Return the matrices by the names that `seewhy.methods.trained.lora` reads."""
        return {name: linear.weight for name, linear in self._matrices.items()}
