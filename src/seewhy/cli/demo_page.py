"""The demo: real photos, a real ImageNet network, one page; offline."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from PIL import Image

from seewhy.data.scenes import Scenes
from seewhy.errors import require
from seewhy.explainer import Outcome, explain, explain_each
from seewhy.methods.factory import as_method
from seewhy.models.adapter import VisionModel
from seewhy.models.load import load_model
from seewhy.targets import concept, top
from seewhy.viz.figures import explanation_grid, grid
from seewhy.viz.html import Bar, Figure, Section, page

MODEL = "efficientnet_lite0"
# fewer samples than the defaults: the pictures look the same, and the demo stays under a minute on two cores
METHODS = {
    "lafam": {},
    "grad_cam": {},
    "saliency": {},
    "smooth_grad": {"n_samples": 10},
    "integrated_gradients": {"n_steps": 20},
}
SCENES_MODEL, SCENE = "scenes_vit", 4  # a scene whose objects the model names with near certainty
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
    outcomes = explain_each(model, list(pictures.values()), tools, top(2), batch_size=1)
    out.mkdir(parents=True, exist_ok=True)
    sections = [
        _section(name, outcome, out)
        for name, outcome in zip(pictures, progress(outcomes, len(pictures), "explaining"), strict=True)
    ]
    sections.append(_scene_section(out))
    return page("What does this model see, and why does it say so?", sections, out / "index.html", INTRO)


def _section(name: str, outcome: Outcome, out: Path) -> Section:
    if outcome.error:
        raise outcome.error
    figure = explanation_grid(outcome.explanations)
    stem = name.lower().replace(" ", "_")
    figure.save(out / f"{stem}.png")
    for explanation in (e for row in outcome.explanations for e in row):
        label = explanation.target.get("label", "").replace(" ", "_") or "any"
        explanation.overlay().save(out / f"{stem}_{explanation.method}_{label}.png")
    first, second = (row[-1].target["label"] for row in outcome.explanations)
    return Section(
        heading=name,
        intro=f"The network says “{first}”, then “{second}”.",
        bars=[Bar(label, chance) for label, _, chance in outcome.top],
        bars_title="Its five best answers",
        figures=[
            Figure(
                figure,
                f"Why “{first}”, and why “{second}”? Photo as the network sees it, then one column for each method.",
                alt=f"Heat maps of five methods over {name.lower()}",
                wide=True,
            )
        ],
    )


def _scene_section(out: Path) -> Section:
    """A made scene, where the right answer is known: does the map move from object to object?"""
    model = load_model(SCENES_MODEL, device="cpu")
    scene = Scenes("multi")[SCENE]
    present = [model.class_names[label] for label in scene.labels]
    absent = next(name for name in model.class_names if name not in present)
    look = explain(model, scene.image, "attention_map")
    maps = [explain(model, scene.image, "cdam", name) for name in (*present, absent)]
    wanted = int(scene.labels[0])
    likeness = concept(model, _examples(wanted, 20), name=f"like 20 pictures of a {present[0]}")
    maps.append(explain(model, scene.image, "concept_cdam", likeness))
    titles = [
        "scene",
        "attention map",
        *(f"CDAM: {name}" for name in present),
        f"CDAM: {absent} (absent)",
        f"Concept CDAM: {likeness.name}",
    ]
    captions = ["", "", *(f"strongest for: {explanation.attribution.max():.2g}" for explanation in maps)]
    picture = grid(
        [[look.image.resize((384, 384), Image.Resampling.NEAREST), look, *maps]], col_titles=titles, captions=[captions]
    )
    picture.save(out / "the_scene.png")
    names = ", a ".join(present[:-1]) + f" and a {present[-1]}"
    return Section(
        heading="A made scene, where the answer is known",
        intro=f"A small ViT that comes with seewhy looks at a {names}. Attention shows where it looks, whatever the "
        "question. CDAM is asked for one class after the other, and its orange moves from object to object. Each map "
        "has its own scale: the number beneath tells that a class which is not there finds less. Last, a concept given "
        "by example pictures only.",
        bars=[Bar(name, chance) for name, chance in _chances(model, scene.image, (*present, absent))],
        bars_title="How sure the ViT is of each",
        figures=[
            Figure(
                picture,
                "Orange speaks for the class, blue against it.",
                alt="Heat maps of a ViT over a made scene, one for each class",
                wide=True,
            )
        ],
    )


def _examples(label: int, count: int) -> list[Image.Image]:
    """The first pictures of one class among the single scenes."""
    scenes = Scenes("single")
    found = (item.image for item in (scenes[i] for i in range(len(scenes))) if item.labels[0] == label)
    return [image for image, _ in zip(found, range(count), strict=False)]


def _chances(model: VisionModel, image: Image.Image, names: tuple[str, ...]) -> list[tuple[str, float]]:
    chances = model.probabilities(model.predict(image))[0]
    return [(name, chances[model.class_names.index(name)].item()) for name in names]
