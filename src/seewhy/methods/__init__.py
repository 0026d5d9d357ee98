"""Every method, found by walking the folders: one file is one method.

`seewhy.methods.GradCAM(model)(batch, target=…)`; `METHODS` has the cards.
"""

from __future__ import annotations

import importlib
import pkgutil

from seewhy.methods.base import Method
from seewhy.registry import METHODS

for _module in pkgutil.walk_packages(__path__, prefix=f"{__name__}."):
    importlib.import_module(_module.name)

globals().update({cls.__name__: cls for cls in METHODS})

__all__ = ["METHODS", "Method", *(cls.__name__ for cls in METHODS)]
