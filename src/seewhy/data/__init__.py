"""Datasets: one file each, one kind of sample, nothing is downloaded.

`load_data("voc", root="VOCdevkit", split="val")`; `DATASETS` maps names to classes, each with its card.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
