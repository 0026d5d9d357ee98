"""Models: where they come from, and the one contract that methods rely on (`VisionModel`)."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
