"""Methods: one file is one method.

`seewhy.methods.GradCAM(model)(batch, target=…)`; `METHODS` maps names to classes, each with its card.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
