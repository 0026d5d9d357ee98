"""Training: heads, fine-tuning, explainers that are learned, and the small reference models that ship."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
