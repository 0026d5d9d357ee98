"""The ablation study of ALA (table 4 of the paper) on scenes, whose masks are exact, beside methods without training.

Each variant is trained with several seeds; every map is scored for the true class of the same test scenes. Insertion
and deletion are those of the encoder's own classifier for all, so that maps can be compared, and for ALA also those of
the classifier that was trained with the map (the paper's).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy import ndarray
from PIL import Image
from torch import Tensor

from seewhy.core.cards import Capability
from seewhy.core.io import atomic_file
from seewhy.core.maps import resize_maps
from seewhy.core.options import Configurable, check_option_names, check_options, option, options_of
from seewhy.data.base import Dataset, Sample
from seewhy.data.folder import Folder
from seewhy.data.scenes import Scenes
from seewhy.errors import DataError, SeewhyError
from seewhy.explanation import Explanation
from seewhy.methods.base import METHODS, Method
from seewhy.methods.factory import as_method, quick_options
from seewhy.methods.trained.base import TrainedMethod
from seewhy.metrics.base import MetricInputs
from seewhy.metrics.faithfulness.id_score import IDScore
from seewhy.metrics.localization.miou import MeanIoU
from seewhy.metrics.localization.thresholds import best_level
from seewhy.models.adapter import VisionModel
from seewhy.models.load import load_model
from seewhy.training.explainer_plan import parse_setting
from seewhy.training.explainers import fit_explainer
from seewhy.training.labeled import Augmentation, LabeledImages
from seewhy.viz.figures import grid

VARIANTS: dict[str, dict[str, Any]] = {
    "ALA + AEA + LoRA": {},
    "without ALA's features": {"taps": []},
    "without LoRA": {"lora_rank": 0},
    "without AEA": {"alternate": False},
}
"""Rows (iv), (i), (ii) and (iii) of the paper's table 4: what differs in the networks."""

FULL, NO_AEA = "ALA + AEA + LoRA", "without AEA"
OTHERS = (
    "grad_cam",
    "score_cam",
    "integrated_gradients",
    "attn_lrp",
    "guided_backprop",
    "cdam",
    "attention_map",
)
"""Methods without training: the paper's baselines (LRP as AttnLRP, which serves transformers), CDAM and attention."""

RESAMPLES = 2000
Scores = dict[str, list[float]]
Say = Callable[[str], None]


@dataclass(kw_only=True, frozen=True)
class Study(Configurable):
    """Sizes of the study.

    Raises:
        OptionError: A value cannot be used.
    """

    model: str = option(default="scenes_vit", help="the encoder")
    architecture: str = option(default="", help="of the encoder, where that is a checkpoint file")
    head: str = option(default="", help="a linear classifier for the encoder, for insertion and deletion")
    root: str = option(default="", help="a folder of images with masks and labels.csv, in place of scenes")
    train: int = option(default=400, help="images to train on", at_least=1)
    validation: int = option(default=60, help="images to choose the epoch and the threshold by", at_least=1)
    test: int = option(default=60, help="images that are scored", at_least=1)
    epochs: int = option(default=10, help="of each training", at_least=1)
    batch_size: int = option(default=16, help="images per step", at_least=1)
    lr: float = option(default=1e-3, help="learning rate of AdamW")
    seeds: int = option(default=3, help="trainings of each variant", at_least=1)
    layers: int = option(default=4, help="layers of the side transformer", at_least=1)
    patch: int = option(default=8, help="side of its patches in pixels", at_least=1)
    width: int = option(default=64, help="its width", at_least=1)
    n_steps: int = option(default=10, help="steps of insertion and deletion", at_least=1)
    quick: bool = option(default=False, help="whether other methods run with few repetitions")

    def __post_init__(self) -> None:
        check_options(self)

    @classmethod
    def planned(cls, quick: bool = False, seeds: int | None = None, settings: Sequence[str] = ()) -> Study:
        """Return the study that options of the command line name.

        Args:
            quick: Whether it only shows that all works.
            seeds: Trainings of each variant.
            settings: `key=value`.

        Raises:
            OptionError: There is no such key, or its value cannot be used.
        """
        values: dict[str, Any] = {}
        if quick:
            small = {"train": 12, "validation": 6, "test": 6, "epochs": 2, "batch_size": 6, "seeds": 1, "n_steps": 2}
            values |= {**small, "layers": 2, "width": 16, "quick": True}
        values |= dict(map(parse_setting, settings))
        values |= {} if seeds is None else {"seeds": seeds}
        check_option_names("the study", values, options_of(cls))
        return cls(**values)

    def run(self, out: str | Path, say: Say = print) -> Results:
        """Train and score what is not there yet, and write `ablation.md`, `ablation.png` and `results.json`.

        Args:
            out: Folder; a study that was killed goes on there.
            say: Called with a line for each thing that is done.

        Returns:
            The scores.

        Raises:
            SeewhyError: The folder holds a study of other sizes, or something cannot be trained.
        """
        folder = Path(out)
        folder.mkdir(parents=True, exist_ok=True)
        self._check_folder(folder)
        work = _Work(self, folder, say)
        results = Results(self, work.variants(), work.others(), work.gaps)
        _write_json(folder / "results.json", results.as_dict())
        with atomic_file(folder / "ablation.md") as draft:
            draft.write_text(results.page(), "utf-8")
        work.figure().save(folder / "ablation.png")
        return results

    def _check_folder(self, folder: Path) -> None:
        path = folder / "study.json"
        if path.is_file() and json.loads(path.read_text("utf-8")) != asdict(self):
            raise SeewhyError(f"{folder} holds a study of other sizes; choose another folder, or the same settings")
        _write_json(path, asdict(self))


class _Work:
    """Training and scoring, each piece kept in a file as soon as it is done."""

    def __init__(self, study: Study, folder: Path, say: Say) -> None:
        self.study, self.folder, self.say = study, folder, say
        self.gaps: dict[str, str] = {}

    @cached_property
    def model(self) -> VisionModel:
        study = self.study
        return load_model(study.model, architecture=study.architecture or None, head=study.head or None)

    @cached_property
    def images(self) -> dict[str, LabeledImages]:
        """The images to train on, to choose by and to score, decoded once."""
        study = self.study
        sizes = {"train": study.train, "validation": study.validation, "test": study.test}
        if not study.root:
            seeds = {"train": 1, "validation": 2, "test": 0}
            sets = {part: Scenes("single", seed=seeds[part], n=n) for part, n in sizes.items()}
            return {part: self._labeled(data, range(len(data)), part) for part, data in sets.items()}
        folder = Folder(study.root)
        single = [i for i in range(len(folder)) if len(folder[i].labels) == 1]
        if len(single) < sum(sizes.values()):
            raise DataError(
                f"{study.root} has {len(single)} images of one object, and {sum(sizes.values())} are asked for; use "
                "fewer: --set train=…"
            )
        order = [single[i] for i in np.random.default_rng(0).permutation(len(single))]
        present = sorted({folder[i].labels[0] for i in order})
        parts = {}
        for part, n in sizes.items():
            parts[part], order = self._labeled(folder, order[:n], part, present), order[n:]
        return parts

    def _labeled(
        self, data: Dataset, indices: Sequence[int], part: str, classes: Sequence[int] | None = None
    ) -> LabeledImages:
        varied = Augmentation() if part == "train" else None
        return LabeledImages(data, self.model, indices=indices, classes=classes, augmentation=varied, keep=True)

    @cached_property
    def test(self) -> _Scored:
        return _Scored.of(self.model, self.images["test"])

    @cached_property
    def held(self) -> _Scored:
        return _Scored.of(self.model, self.images["validation"])

    def variants(self) -> dict[str, list[Scores]]:
        return {
            name: [self._kept(f"{_slug(name)}-{seed}", partial(self._variant, name, seed)) for seed in self.seeds]
            for name in VARIANTS
        }

    def others(self) -> dict[str, Scores]:
        found = {}
        for name in OTHERS:
            if not isinstance(method := self._other(name), str):
                found[METHODS[name].card.title] = self._kept(name, partial(self._score, method))
            else:
                self.gaps[METHODS[name].card.title] = method
        return found

    @property
    def seeds(self) -> range:
        return range(self.study.seeds)

    def _other(self, name: str) -> Method | str:
        options = quick_options(METHODS[name]) if self.study.quick else {}
        try:
            return as_method(self.model, name, **options)
        except SeewhyError as error:
            return str(error)

    def _kept(self, name: str, make: Callable[[], Scores]) -> Scores:
        path = self.folder / "scores" / f"{name}.json"
        if not path.is_file():
            path.parent.mkdir(exist_ok=True)
            _write_json(path, make())
            self.say(f"{name}: done")
        scores: Scores = json.loads(path.read_text("utf-8"))
        return scores

    def fitted(self, name: str, seed: int) -> TrainedMethod:
        """Return a variant, trained if it is not there yet."""
        study, out = self.study, self.folder / "runs" / f"{_slug(name)}-{seed}"
        if (out / "explainer.json").is_file():
            return as_method(self.model, "ala", weights=out)  # type: ignore[return-value]
        sizes = {"layers": study.layers, "patch": study.patch, "width": study.width}
        return fit_explainer(
            "ala",
            self.model,
            self.images["train"],
            validation=self.images["validation"],
            networks={**sizes, **VARIANTS[name]},
            out=out,
            epochs=study.epochs,
            batch_size=study.batch_size,
            lr=study.lr,
            seed=seed,
            resume=True,
            device=self.model.device,
            progress=False,
        )

    def _variant(self, name: str, seed: int) -> Scores:
        method = self.fitted(name, seed)
        classifier = method.classifier
        found = self._faithfulness(classifier, self.test.maps(method), self.test.rows)
        own = {f"own_{key}": values for key, values in found.items()}
        right = classifier.run(self.test.x).logits
        assert right is not None
        return {**self._score(method), **own, "accuracy": (right.argmax(1).cpu() == self.test.rows).double().tolist()}

    def _score(self, method: Method) -> Scores:
        maps, masks = self.test.maps(method), self.test.masks
        level = best_level(self.held.maps(method), self.held.masks)
        half, best = (
            MeanIoU(rule=rule, level=at).measure(maps, MetricInputs(masks=masks)).value
            for rule, at in (("max", 0.5), ("best", level))
        )
        area = (maps > 0.5 * maps.amax((1, 2), keepdim=True)).double().mean((1, 2))
        localization = {"iou": half, "iou_best": best, "area": area}
        return {
            **{key: value.tolist() for key, value in localization.items()},
            **(self._faithfulness(self.model, maps, self.test.own) if self.test.own is not None else {}),
            "level": [level],
        }

    def _faithfulness(self, model: VisionModel, maps: Tensor, classes: Tensor) -> Scores:
        inputs = MetricInputs(model=model, x=self.test.x, target=classes.tolist())
        found = IDScore(n_steps=self.study.n_steps).measure(maps, inputs)
        return {
            "insertion": found.parts["insertion"].tolist(),
            "deletion": found.parts["deletion"].tolist(),
            "id": found.value.tolist(),
        }

    def figure(self) -> Image.Image:
        """Draw the first scenes with every map."""
        shown = slice(0, min(6, self.study.test))
        methods: dict[str, Method] = {name: self.fitted(name, 0) for name in VARIANTS}
        methods |= {METHODS[n].card.title: m for n in OTHERS if not isinstance(m := self._other(n), str)}
        columns: list[list[Explanation]] = []
        for method in methods.values():
            maps = self.test.maps(method, shown)
            columns.append(
                [
                    Explanation(each, method.card.name, signed=method.is_signed, image=image)
                    for each, image in zip(maps, self.test.images, strict=False)
                ]
            )
        rows = [[image, *row] for image, row in zip(self.test.images[shown], zip(*columns, strict=True), strict=True)]
        return grid(rows, None, ["image", *methods], cell=128)


@dataclass(frozen=True, eq=False)
class _Scored:
    """Images as inputs, with masks and labels.

    Attributes:
        x: Inputs.
        masks: Of the object, as the model sees the image.
        rows: Classes as ALA's classifier numbers them.
        own: Classes as the encoder's classifier numbers them; None: it has none, or not these.
        images: What the model sees of each.
    """

    x: Tensor
    masks: Bool[Tensor, "n rows cols"]
    rows: Tensor
    own: Tensor | None
    images: list[Image.Image]

    @classmethod
    def of(cls, model: VisionModel, images: LabeledImages) -> _Scored:
        samples = [images.dataset[i] for i in images.indices]
        x = model.preprocess_images([sample.image for sample in samples])
        size = (x.shape[-2], x.shape[-1])
        masks = np.stack([_seen(model, sample, size) for sample in samples])
        rows = torch.tensor([images.read(i)[1] for i in range(len(images))])
        shown = [model.visible_region(sample.image) for sample in samples]
        return cls(x, torch.from_numpy(masks).to(x.device), rows, _own(model, images, rows), shown)

    def maps(self, method: Method, rows: slice = slice(None)) -> Float[Tensor, "n rows cols"]:
        """Return the maps for the true classes at the size of the masks."""
        x = self.x[rows]
        labels = [0] * len(x) if self.own is None else self.own[rows].tolist()
        size = (self.masks.shape[-2], self.masks.shape[-1])
        parts = [method(x[i : i + 16], labels[i : i + 16]) for i in range(0, len(x), 16)]
        return resize_maps(torch.cat(parts), size)


@dataclass(frozen=True, eq=False)
class Results:
    """Scores of a study.

    Attributes:
        study: Its sizes.
        variants: For each variant the scores of each seed, by column, one number for each test scene.
        others: The scores of the other methods.
        gaps: Methods that cannot serve the encoder, and why.
    """

    study: Study
    variants: dict[str, list[Scores]]
    others: dict[str, Scores]
    gaps: dict[str, str]

    def as_dict(self) -> dict[str, Any]:
        """Return all for JSON."""
        return {"study": asdict(self.study), "variants": self.variants, "others": self.others, "gaps": self.gaps}

    def values(self, name: str, column: str) -> Float[ndarray, "seeds images"] | None:
        """Return a row's scores; None where it has none."""
        runs = self.variants.get(name) or [self.others[name]]
        if column not in runs[0]:
            return None
        return np.array([scores[column] for scores in runs], dtype=float)

    def mean(self, name: str, column: str) -> tuple[float, float, float]:
        """Return the mean over seeds and scenes, half the width of its 95 % interval over scenes, and s.d. of seeds."""
        values = self.values(name, column)
        assert values is not None
        by_seed = values.mean(1)
        return float(values.mean()), half_width(values.mean(0)), float(by_seed.std(ddof=1)) if len(by_seed) > 1 else 0.0

    def difference(self, first: str, second: str, column: str) -> tuple[float, float]:
        """Return the mean paired difference of two variants over the scenes, and half the width of its interval."""
        one, two = self.values(first, column), self.values(second, column)
        assert one is not None
        assert two is not None
        paired = one.mean(0) - two.mean(0)
        return float(paired.mean()), half_width(paired)

    def page(self) -> str:
        """Return the tables as Markdown."""
        s = self.study
        lines = [
            "| | IoU, half of max | IoU, best level | area | insertion | deletion | ID | own ID | accuracy |",
            "|---|---|---|---|---|---|---|---|---|",
            *(self._line(name) for name in [*self.variants, *self.others]),
            *(f"| {name} | cannot serve {s.model} | | | | | | | |" for name in self.gaps),
        ]
        comparisons = []
        for column, words in (("area", "area"), ("iou", "IoU, half of max"), ("iou_best", "IoU, best level")):
            mean, half = self.difference(FULL, NO_AEA, column)
            comparisons.append(f"| {words} | {mean:+.3f} ± {half:.3f} |")
        sizes = ", ".join(f"{key} = {value}" for key, value in asdict(s).items() if value != "")
        images = "images" if s.root else "scenes of the split `single`"
        return "\n".join(
            [
                f"{s.test} {images}, {s.seeds} trainings of each variant ({sizes}).",
                "± is half of the 95 % bootstrap interval over images; behind the slash the standard deviation over "
                "trainings.",
                "",
                *lines,
                "",
                "With AEA minus without, paired by image:",
                "",
                "| | difference |",
                "|---|---|",
                *comparisons,
                "",
            ]
        )

    def _line(self, name: str) -> str:
        cells = []
        for column in ("iou", "iou_best", "area", "insertion", "deletion", "id", "own_id", "accuracy"):
            if self.values(name, column) is None:
                cells.append("")
                continue
            mean, half, spread = self.mean(name, column)
            behind = f" / {spread:.3f}" if name in self.variants and self.study.seeds > 1 else ""
            cells.append(f"{mean:.3f} ± {half:.3f}{behind}")
        return f"| {name} | {' | '.join(cells)} |"


def _seen(model: VisionModel, sample: Sample, size: tuple[int, int]) -> Bool[ndarray, "rows cols"]:
    """Return the mask of a sample's object as the model sees it."""
    if sample.masks is None:
        raise DataError(f"{sample.id} has no mask; the study scores images with masks")
    box = model.box(sample.image)
    mask = Image.fromarray(sample.mask_of(sample.labels[0]))
    whole = mask if box is None else mask.crop(tuple(map(round, box)))  # type: ignore[arg-type]  # four numbers
    return np.asarray(whole.resize((size[1], size[0]), Image.Resampling.NEAREST))


def _own(model: VisionModel, images: LabeledImages, rows: Tensor) -> Tensor | None:
    if Capability.LOGITS not in model.capabilities:
        return None
    names = model.class_names or images.dataset.class_names
    if not set(images.classes) <= set(names):
        return None
    return torch.tensor([names.index(images.classes[row]) for row in rows.tolist()])


def half_width(values: Float[ndarray, " n"], seed: int = 0) -> float:
    """Return half the width of the 95 % percentile bootstrap interval of a mean."""
    rows = np.random.default_rng(seed).integers(0, len(values), (RESAMPLES, len(values)))
    low, high = np.quantile(values[rows].mean(1), [0.025, 0.975])
    return float(high - low) / 2


def _slug(name: str) -> str:
    return "".join(c if c.isalnum() else "_" for c in name.lower()).replace("___", "_")


def _write_json(path: Path, value: Any) -> None:
    with atomic_file(path) as draft:
        draft.write_text(json.dumps(value), "utf-8")
