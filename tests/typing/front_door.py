"""What a user's type checker sees; `tests/typing/test_typing.py` runs mypy and pyright over it. Never executed."""

from typing import assert_type

from PIL import Image
from torch import Tensor

import seewhy
from seewhy import Explanation
from seewhy.methods import CDAM, GradCAM, Method
from seewhy.metrics import Fidelity, Metric, PointingGame
from seewhy.models import VisionModel

image = Image.new("RGB", (32, 32))
model = seewhy.load_model("scenes_vit")
assert_type(model, VisionModel)
assert_type(seewhy.wrap_function(lambda x: x), VisionModel)

# one image is one explanation, several are a list
assert_type(seewhy.explain(model, image), Explanation)
assert_type(seewhy.explain(model, "cat.jpg", "grad_cam", "tabby"), Explanation)
assert_type(seewhy.explain(model, ["a.jpg", "b.jpg"], method="cdam"), list[Explanation])

# methods and metrics are classes with typed options
method = GradCAM(model, relu=False)
assert_type(method.relu, bool)
assert_type(method(model.preprocess_images(image), target=3), Tensor)
assert_type(PointingGame(ties="any").ties, str)
classes: list[type[Method]] = [CDAM, GradCAM]
metrics: list[type[Metric]] = [Fidelity, PointingGame]

assert_type(seewhy.list_methods(), list[str])
assert_type(model.predict(image), Tensor)
assert_type(seewhy.explain(model, image).attribution, Tensor)
