"""The demo: real photos, a real ImageNet network, one page; offline."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from PIL import Image

from seewhy.errors import require
from seewhy.explainer import Outcome, as_method, explain_each
from seewhy.models.load import load_model
from seewhy.viz.grid import explanation_grid
from seewhy.viz.html import Bar, Figure, Section, page

MODEL = "efficientnet_lite0"
# fewer samples than the defaults: the pictures look the same, and the demo stays under a minute on two cores
METHODS = {"lafam": {}, "grad_cam": {}, "saliency": {}, "smooth_grad": {"n_samples": 10},
           "integrated_gradients": {"n_steps": 20}}
INTRO = (
    "A network trained on ImageNet (EfficientNet-Lite0) looks at photos that come with scikit-image. For each: what "
    "it answers, and where it finds its reasons, for its first answer and for its second. LaFAM needs no class: it "
    "shows where the network is active at all."
)
Progress = Callable[[Iterable, int, str], Iterator]


def photos() -> dict[str, Image.Image]:
    """The cat and the coffee of scikit-image."""
    data = require("skimage.data", "demo")
    return {"The cat": Image.fromarray(data.chelsea()), "The coffee": Image.fromarray(data.coffee())}


def build(out: Path, device: str | None = None, progress: Progress = lambda items, *_: iter(items)) -> Path:
    """Write `index.html` (self-contained) and the pictures to `out`; returns the page's path.

    Raises:
        MissingExtraError: `pip install 'seewhy[demo]'` has not been done.
    """
    model = load_model(MODEL, device=device)
    pictures = photos()
    tools = [as_method(model, name, **options) for name, options in METHODS.items()]
    outcomes = explain_each(model, list(pictures.values()), tools, ["top-2"], batch_size=1)
    out.mkdir(parents=True, exist_ok=True)
    sections = [_section(name, outcome, out)
                for name, outcome in zip(pictures, progress(outcomes, len(pictures), "explaining"), strict=True)]
    return page("What does this model see, and why does it say so?", sections, out / "index.html", INTRO)


def _section(name: str, outcome: Outcome, out: Path) -> Section:
    if outcome.error:
        raise outcome.error
    figure = explanation_grid(outcome.maps)
    stem = name.lower().replace(" ", "_")
    figure.save(out / f"{stem}.png")
    for explanation in (e for row in outcome.maps for e in row):
        label = explanation.target.get("label", "").replace(" ", "_") or "any"
        explanation.overlay().save(out / f"{stem}_{explanation.method}_{label}.png")
    first, second = (row[-1].target["label"] for row in outcome.maps)
    return Section(
        heading=name,
        intro=f"The network says “{first}”, then “{second}”.",
        bars=[Bar(label, chance) for label, _, chance in outcome.top],
        bars_title="Its five best answers",
        figures=[Figure(figure, f"Why “{first}”, and why “{second}”? Photo as the network sees it, then one column "
                        "for each method.", alt=f"Heat maps of five methods over {name.lower()}", wide=True)],
    )
