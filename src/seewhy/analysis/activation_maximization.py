"""Class model visualization: the image that maximizes a class score (or any target).

Simonyan, Vedaldi and Zisserman, Deep Inside Convolutional Networks (2014), section 2: argmax_I f_c(I) − λ‖I‖², with
f_c the logit, not the probability (which can also grow by lowering all other classes), I the normalized input, and the
ascent starting from the zero image, which is the training data's mean color.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from seewhy.analysis.differentiable import require_gradients, resolve_target
from seewhy.core.images import load_image
from seewhy.core.io import atomic_file
from seewhy.core.progress import Progress, no_progress
from seewhy.errors import NonFiniteError, OptionError
from seewhy.methods.base import input_gradient, make_generator
from seewhy.methods.baselines import gaussian_blur
from seewhy.models.adapter import VisionModel
from seewhy.models.instrument.hooks import untouched
from seewhy.targets import Output, Target, TargetLike

LAST_FRAME = 1500  # milliseconds that an animation rests on its last frame


@dataclass(frozen=True, eq=False)
class ClassVisualization:
    """The result of an ascent.

    Attributes:
        label: The target, as a person would name it.
        input: The last image as the model takes it, normalized.
        image: The same for the eye.
        frames: Images on the way, the first and the last included.
        scores: The target's score of the image before each step, and of the last one; steps + 1 numbers.
    """

    label: str
    input: Float[Tensor, "3 height width"]
    image: Image.Image
    frames: list[Image.Image]
    scores: list[float]

    def save(self, path: str | Path, seconds: float = 4.0) -> tuple[Path, Path]:
        """Write the ascent as an animation, and beside it the last image.

        Args:
            path: The animation; its suffix becomes `.gif`, that of the image `.png`.
            seconds: How long the ascent takes, about.

        Returns:
            The paths of the animation and of the image.
        """
        gif = Path(path).with_suffix(".gif")
        png = gif.with_suffix(".png")
        gif.parent.mkdir(parents=True, exist_ok=True)
        frame = max(20, round(1000 * seconds / len(self.frames)))  # browsers slow down below 20 ms
        durations = [frame] * (len(self.frames) - 1) + [LAST_FRAME]
        with atomic_file(gif) as draft:
            self.frames[0].save(draft, save_all=True, append_images=self.frames[1:], duration=durations, loop=0)
        with atomic_file(png) as draft:
            self.image.save(draft)
        return gif, png


def visualize_class(
    model: VisionModel,
    target: TargetLike,
    *,
    steps: int = 200,
    step: float = 0.15,
    l2: float = 3e-4,
    jitter: int | None = None,
    blur: float = 0.7,
    seed: int = 0,
    frames: int = 32,
    size: tuple[int, int] | None = None,
    progress: Progress = no_progress,
) -> ClassVisualization:
    """Climb f_c(I) − λ‖I‖² from the mean color.

    Each step is I ← (I + η g) / (1 + 2ηλ), g = ∂f_c/∂I, η = step / rms(g): the gradient of the score, then the exact
    step of the penalty. It is stable for any λ, and like the plain ascent it rests where g = 2λI.

    Args:
        model: A model of `seewhy.load_model` or `seewhy.wrap`; it is not changed.
        target: What is maximized, as in `seewhy.explain`. "top-1" is the class that the mean color itself gets.
        steps: Number of steps.
        step: Length of a step, root mean square, in units of the normalized input (1 is the data's own spread).
        l2: λ, in units of the score per squared number of the input; larger stays nearer to the mean color.
        jitter: Each gradient is that of the image shifted by up to that many pixels, against fine noise; the mean
            color comes in at the border. Default: 1/8 of the shorter side. (A cyclic shift, which is usual, makes a
            torus of the image, and objects grow across its border.)
        blur: σ in pixels of a Gaussian after each step, likewise against fine noise; 0: none.
        seed: Seed of the shifts.
        frames: How many images of the way to keep.
        size: Rows and columns of the image; by default the model's input size.
        progress: Shows the steps.

    Returns:
        The image, the way to it and its scores.

    Raises:
        OptionError: When an option is out of range.
        RequirementError: When the model has no gradients.
        TargetError: When the model has no such output.
        UnknownNameError: When there is no class of that name.
        NonFiniteError: When the score becomes NaN or infinite.
    """
    rows, cols = size or _input_size(model)
    jitter = min(rows, cols) // 8 if jitter is None else jitter
    _check_options(steps=steps, step=step, l2=l2, jitter=jitter, blur=blur, frames=frames)
    if jitter >= min(rows, cols):
        raise OptionError(
            f"jitter={jitter} would shift an image of {rows}×{cols} out of sight; use less than {min(rows, cols)}"
        )
    require_gradients(model, "class visualization")
    resolved = resolve_target(model, target)
    x = torch.zeros(1, 3, rows, cols, device=model.device, dtype=model.dtype)
    kept, scores = [x], []
    with model.shape_error_context(x), torch.inference_mode(False), torch.no_grad(), untouched(model.module):
        if resolved.depends_on_output:
            resolved = resolved.fixed(model.run(x))
        shifts = _draw_shifts(steps, jitter, seed)
        for i in progress(range(steps), steps, "maximizing"):
            score, g = _score_and_gradient(model, x, resolved, shifts[i])
            scores.append(score)
            x = ascent_step(x, g, step, l2)
            if blur:
                x = gaussian_blur(x, blur)
            if (i + 1) * (frames - 1) // steps > i * (frames - 1) // steps:  # evenly spread, the last step included
                kept.append(x)
        scores.append(resolved.score(model.run(x)))
    values = torch.cat(scores).float().cpu()
    if not torch.isfinite(values).all():
        raise NonFiniteError(
            f"the score of {model.name} becomes NaN or infinite on the way; use a smaller step or a larger l2"
        )
    images = [_to_image(model, one[0]) for one in kept]
    return ClassVisualization(
        label=resolved.label(0, model.class_names),
        input=x[0].float(),
        image=images[-1],
        frames=images,
        scores=values.tolist(),
    )


def ascent_step(x: Tensor, g: Tensor, step: float, l2: float) -> Tensor:
    """Return x after one step along the gradient `g` of the score, then the proximal step of λ‖x‖² at the same rate."""
    # the floor: where the score has no gradient at all, the image stays
    rate = step / g.float().pow(2).mean().sqrt().clamp(min=1e-20)
    return ((x.float() + rate * g.float()) / (1 + 2 * rate * l2)).to(x.dtype)


def shift_image(x: Tensor, shift: tuple[int, int]) -> Tensor:
    """Return the image moved down and right; zeros, the mean color, where nothing was."""
    down, right = shift
    return F.pad(x, (right, -right, down, -down))


class _RecordedTarget(Target):
    """A target that keeps its scores."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.need = target.need
        self.scores: list[Tensor] = []

    def score(self, output: Output) -> Float[Tensor, "batch"]:
        """Compute and keep the score."""
        self.scores.append(self.target.score(output))
        return self.scores[-1]


def _score_and_gradient(model: VisionModel, x: Tensor, target: Target, shift: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return the score and its gradient at the shifted image; the gradient is shifted back."""
    recorded = _RecordedTarget(target)
    g = input_gradient(model, shift_image(x, shift), recorded)
    return recorded.scores[0].detach(), shift_image(g, (-shift[0], -shift[1]))


def _draw_shifts(steps: int, jitter: int, seed: int) -> list[tuple[int, int]]:
    generator = make_generator(seed, torch.device("cpu"))
    drawn = torch.randint(-jitter, jitter + 1, (steps, 2), generator=generator)
    return [(down, right) for down, right in drawn.tolist()]


def _check_options(**options: float) -> None:
    lowest = {"steps": 1, "l2": 0, "jitter": 0, "blur": 0, "frames": 2}
    for name, least in lowest.items():
        if not options[name] >= least:
            raise OptionError(f"{name} must be at least {least}, got {options[name]}; use {least} or more")
    if not options["step"] > 0:
        raise OptionError(f"step must be positive, got {options['step']}; use for example 0.15")


def _input_size(model: VisionModel) -> tuple[int, int]:
    size = getattr(model.preprocess, "size", None)
    if size is None:
        raise OptionError(f"the input size of {model.name} is not known; pass size=(rows, cols)")
    rows, cols = size
    return rows, cols


def _to_image(model: VisionModel, x: Float[Tensor, "3 height width"]) -> Image.Image:
    """Invert the model's normalization; where that is not known, stretch to the full range."""
    x = x.float().cpu()
    denormalize = getattr(model.preprocess, "denormalize", None)
    if denormalize is not None:
        return load_image(denormalize(x))
    low, high = x.min(), x.max()
    return load_image((x - low) / (high - low).clamp(min=1e-12))
