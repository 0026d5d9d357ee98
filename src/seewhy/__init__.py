"""seewhy: what does this model see, and why does it say so?

    model = seewhy.load_model("efficientnet_lite0")
    seewhy.explain(model, "cat.jpg", method="grad_cam", target="tabby").overlay().save("cat.png")

Importing seewhy imports nothing else; `__init__.pyi` lists the public names, which are looked up when they are used.
"""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
