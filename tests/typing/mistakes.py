"""Each line marked `error` must be one for mypy and for pyright, and no other line. Never executed."""

import seewhy
from seewhy.methods import GradCAM

model = seewhy.load_model("scenes_vit")
seewhy.load_data("voc", rooot=".").nothing  # error: no such attribute
seewhy.wrap(model.module, class_name=["a"])  # error: misspelt argument
seewhy.explain("scenes_vit", "cat.jpg")  # error: a name is no model
seewhy.explain_everything  # error: no such name
GradCAM(model, rellu=True)  # error: no such option
seewhy.explain(model, "cat.jpg", GradCAM(model, layr=-1))  # error: no such option
GradCAM(model, relu="yes")  # error: an option of another type
seewhy.explain(model, "cat.jpg").heatmap_  # error: no such attribute
seewhy.load_model("scenes_vit", pretraind=3).preproces  # error: no such attribute
