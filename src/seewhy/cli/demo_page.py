"""The demo: two images, an ImageNet network, one page; offline."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

from PIL import Image

from seewhy.core.progress import Progress, no_progress
from seewhy.data.scenes import Scenes
from seewhy.errors import require
from seewhy.explainer import Outcome, explain, explain_each
from seewhy.methods.factory import as_method
from seewhy.models.adapter import VisionModel
from seewhy.models.load import load_model
from seewhy.targets import concept, top
from seewhy.viz.figures import Cell, explanation_grid, grid
from seewhy.viz.html import Bar, Figure, Section, page

MODEL = "efficientnet_lite0"
# fewer samples than the defaults: the maps look the same, and the demo stays under a minute on two cores
METHODS: dict[str, dict[str, Any]] = {
    "lafam": {},
    "grad_cam": {},
    "saliency": {},
    "smooth_grad": {"n_samples": 10},
    "integrated_gradients": {"n_steps": 20},
}
SCENES_MODEL = "scenes_vit"
SCENE = 4  # its objects are classified with near certainty
EXAMPLES = 20  # images of a concept
INTRO = (
    "An ImageNet network (EfficientNet-Lite0) classifies images that come with scikit-image. For each: its answers, "
    "and the evidence that each method finds for the first and for the second. LaFAM needs no class: it shows where "
    "the network is active at all."
)


def demo_images() -> dict[str, Image.Image]:
    """Return the cat and the coffee of scikit-image."""
    data = require("skimage.data", "demo")
    return {"The cat": Image.fromarray(data.chelsea()), "The coffee": Image.fromarray(data.coffee())}


def build(out: Path, device: str | None = None, progress: Progress = no_progress) -> Path:
    """Write `index.html` (self-contained) and the figures to a folder.

    Args:
        out: The folder.
        device: Of the network.
        progress: Shows the images.

    Returns:
        The path of the page.

    Raises:
        MissingExtraError: When the extra `demo` is not installed.
    """
    model = load_model(MODEL, device=device)
    images = demo_images()
    methods = [as_method(model, name, **options) for name, options in METHODS.items()]
    outcomes = explain_each(model, list(images.values()), methods, top(2), batch_size=1)
    out.mkdir(parents=True, exist_ok=True)
    sections = [
        _image_section(name, outcome, out)
        for name, outcome in zip(images, progress(outcomes, len(images), "explaining"), strict=True)
    ]
    sections.append(_scene_section(out))
    return page("What does this model see, and why does it say so?", sections, out / "index.html", INTRO)


def _image_section(name: str, outcome: Outcome, out: Path) -> Section:
    if outcome.error:
        raise outcome.error
    figure = explanation_grid(outcome.explanations)
    stem = name.lower().replace(" ", "_")
    figure.save(out / f"{stem}.png")
    for row in outcome.explanations:
        for explanation in row:
            label = explanation.target.get("label", "").replace(" ", "_") or "any"
            explanation.overlay().save(out / f"{stem}_{explanation.method}_{label}.png")
    first, second = (row[-1].target["label"] for row in outcome.explanations)
    return Section(
        heading=name,
        intro=f"The network answers “{first}”, then “{second}”.",
        bars=[Bar(answer.label, answer.probability or 0.0) for answer in outcome.top],
        bars_title="Its five best answers",
        figures=[
            Figure(
                figure,
                f"Why “{first}”, and why “{second}”? The image as the network sees it, then one column per method.",
                alt=f"Heat maps of five methods over {name.lower()}",
                wide=True,
            )
        ],
    )


def _scene_section(out: Path) -> Section:
    """Explain a synthetic scene, whose right answer is known: does the map move from object to object?"""
    model = load_model(SCENES_MODEL, device="cpu")
    class_names = list(model.class_names or ())
    scene = Scenes("multi")[SCENE]
    present = [class_names[label] for label in scene.labels]
    absent = next(name for name in class_names if name not in present)
    attention = explain(model, scene.image, "attention_map")
    maps = [explain(model, scene.image, "cdam", name) for name in (*present, absent)]
    examples = _examples(int(scene.labels[0]), EXAMPLES)
    similar = concept(model, examples, name=f"like {EXAMPLES} images of a {present[0]}")
    maps.append(explain(model, scene.image, "concept_cdam", similar))
    titles = [
        "scene",
        "attention map",
        *(f"CDAM: {name}" for name in present),
        f"CDAM: {absent} (absent)",
        f"Concept CDAM: {similar.name}",
    ]
    captions = ["", "", *(f"maximum: {explanation.attribution.max():.2g}" for explanation in maps)]
    enlarged = scene.image.resize((384, 384), Image.Resampling.NEAREST)
    cells: list[Cell] = [enlarged, attention, *maps]
    figure = grid([cells], col_titles=titles, captions=[captions])
    figure.save(out / "the_scene.png")
    names = ", a ".join(present[:-1]) + f" and a {present[-1]}"
    return Section(
        heading="A synthetic scene, where the answer is known",
        intro=f"A small ViT that comes with seewhy classifies a {names}. Attention shows where it looks, whatever the "
        "question. CDAM explains one class after the other, and its orange moves from object to object. Each map has "
        "its own scale: the number beneath shows that an absent class finds less. Last, a concept given by example "
        "images only.",
        bars=[Bar(name, p) for name, p in _probabilities(model, scene.image, (*present, absent))],
        bars_title="Probability of each",
        figures=[
            Figure(
                figure,
                "Orange speaks for the class, blue against it.",
                alt="Heat maps of a ViT over a synthetic scene, one for each class",
                wide=True,
            )
        ],
    )


def _examples(label: int, count: int) -> list[Image.Image]:
    """Return the first images of one class among the single scenes."""
    scenes = Scenes("single")
    samples = (scenes[i] for i in range(len(scenes)))
    return list(islice((sample.image for sample in samples if sample.labels[0] == label), count))


def _probabilities(model: VisionModel, image: Image.Image, names: tuple[str, ...]) -> list[tuple[str, float]]:
    probabilities = model.probabilities(model.predict(image))[0]
    class_names = list(model.class_names or ())
    return [(name, probabilities[class_names.index(name)].item()) for name in names]
