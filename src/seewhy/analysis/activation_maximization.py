"""Class model visualization: the picture that a class (or any target) wants to see.

Simonyan, Vedaldi and Zisserman, Deep Inside Convolutional Networks (2014), section 2: argmax_I f_c(I) − λ‖I‖², with
f_c the logit, not the probability (which can also grow by lowering all other classes), I the normalized input, and the
ascent starting from the zero image, which is the training data's mean color.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from seewhy.core.cards import Capability
from seewhy.core.images import load_image
from seewhy.errors import NonFiniteError, OptionError, RequirementError
from seewhy.methods.base import input_gradient, make_generator
from seewhy.methods.baselines import gaussian_blur
from seewhy.models.adapter import VisionModel
from seewhy.models.instrument.hooks import untouched
from seewhy.targets import Output, Target, TargetLike

Progress = Callable[[Iterable, int, str], Iterator]


@dataclass(frozen=True, eq=False)
class Dream:
    """What came of an ascent.

    Attributes:
        label: the target, as a person would name it.
        input: the last picture as the model takes it, (3, H, W), normalized.
        picture: the same for the eye.
        frames: pictures on the way, the first and the last included.
        scores: the target's score of the picture before each step, and of the last one; steps + 1 numbers.
    """

    label: str
    input: Float[Tensor, "3 height width"]
    picture: Image.Image
    frames: list[Image.Image]
    scores: list[float]

    def save(self, path: str | Path, seconds: float = 4.0) -> list[Path]:
        """Write the ascent as a GIF of about `seconds`, and beside it the last picture as PNG; returns both paths."""
        gif = Path(path).with_suffix(".gif")
        gif.parent.mkdir(parents=True, exist_ok=True)
        each = max(20, round(1000 * seconds / len(self.frames)))  # browsers slow down below 20 ms
        rest = [each] * (len(self.frames) - 1) + [1500]
        self.frames[0].save(gif, save_all=True, append_images=self.frames[1:], duration=rest, loop=0)
        self.picture.save(gif.with_suffix(".png"))
        return [gif, gif.with_suffix(".png")]


def dream(
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
    progress: Progress = lambda items, *_: iter(items),
) -> Dream:
    """Climb f_c(I) − λ‖I‖² from the mean color.

    Each step is I ← (I + η g) / (1 + 2ηλ), g = ∂f_c/∂I, η = step / rms(g): the gradient of the score, then the exact
    step of the penalty. It is stable for any λ, and like the plain ascent it rests where g = 2λI.

    Args:
        model: from `seewhy.load_model` or `seewhy.wrap`; it is not changed.
        target: what is to be seen, as in `seewhy.explain`. "top-1" is the class that the mean color itself gets.
        steps: number of steps.
        step: how far one goes, root mean square, in units of the normalized input (1 is the data's own spread).
        l2: λ, in units of the score per squared number of the input; larger stays nearer to the mean color.
        jitter: each gradient is that of the picture shifted by up to that many pixels, against fine noise; the mean
            color comes in at the border. Default: 1/8 of the shorter side. (A cyclic shift, which is usual, makes a
            torus of the picture, and objects grow across its border.)
        blur: σ in pixels of a Gaussian after each step, likewise; 0: none.
        seed: of the shifts.
        frames: how many pictures of the way to keep.
        size: (rows, cols) of the picture; by default the model's input.
        progress: called with (items, total, label), gives the items again.

    Raises:
        OptionError: an option has an impossible value. RequirementError: the model has no gradients.
        TargetError, UnknownNameError: no such target. NonFiniteError: the score becomes NaN or infinite.
    """
    rows, cols = size or _input_size(model)
    jitter = min(rows, cols) // 8 if jitter is None else jitter
    _check(model, steps=steps, step=step, l2=l2, jitter=jitter, blur=blur, frames=frames)
    if jitter >= min(rows, cols):
        raise OptionError(
            f"jitter={jitter} would shift a picture of {rows}×{cols} out of sight; use less than {min(rows, cols)}"
        )
    goal = model.as_target(target)
    if goal.need not in model.capabilities:
        Output().require(goal.need)
    goal.check(1, model.classes)
    x = torch.zeros(1, 3, rows, cols, device=model.device, dtype=model.dtype)
    with model.shape_error_context(x), torch.inference_mode(False), torch.no_grad(), untouched(model.module):
        goal = goal.fixed(model.run(x)) if goal.depends_on_output else goal
        kept, scores = [x], []
        shifts = _shifts(steps, jitter, seed)
        for i in progress(range(steps), steps, "dreaming"):
            score, g = _score_and_gradient(model, x, goal, shifts[i])
            x = ascended(x, g, step, l2)
            x = gaussian_blur(x, blur) if blur else x
            scores.append(score)
            if (i + 1) * (frames - 1) // steps > i * (frames - 1) // steps:
                kept.append(x)
        scores.append(goal.score(model.run(x)))
    values = torch.cat(scores).float().cpu()
    if not torch.isfinite(values).all():
        raise NonFiniteError(
            f"the score of {model.name} becomes NaN or infinite on the way; use a smaller step or a larger l2"
        )
    pictures = [_picture(model, one[0]) for one in kept]
    return Dream(goal.label(0, model.class_names), x[0].float(), pictures[-1], pictures, values.tolist())


def ascended(x: Tensor, g: Tensor, step: float, l2: float) -> Tensor:
    """One step: along the gradient `g` of the score, then the proximal step of λ‖x‖² at the same rate."""
    # the floor: where the score has no gradient at all, the picture stays
    rate = step / g.float().pow(2).mean().sqrt().clamp(min=1e-20)
    return ((x.float() + rate * g.float()) / (1 + 2 * rate * l2)).to(x.dtype)


def _score_and_gradient(model: VisionModel, x: Tensor, goal: Target, shift: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """The score and its gradient at the shifted picture; the gradient is shifted back."""
    found: list[Tensor] = []

    class Noted(Target):
        need = goal.need

        def score(self, output: Output) -> Tensor:
            found.append(goal.score(output))
            return found[0]

    g = input_gradient(model, shifted(x, shift), Noted())
    return found[0].detach(), shifted(g, (-shift[0], -shift[1]))


def shifted(x: Tensor, shift: tuple[int, int]) -> Tensor:
    """The picture moved down and right; zeros, the mean color, where nothing was."""
    down, right = shift
    return F.pad(x, (right, -right, down, -down))


def _shifts(steps: int, jitter: int, seed: int) -> list[tuple[int, int]]:
    generator = make_generator(seed, torch.device("cpu"))
    drawn = torch.randint(-jitter, jitter + 1, (steps, 2), generator=generator)
    return [(down, right) for down, right in drawn.tolist()]


def _check(model: VisionModel, **options: float) -> None:
    lowest = {"steps": 1, "l2": 0, "jitter": 0, "blur": 0, "frames": 2}
    for name, least in lowest.items():
        if not options[name] >= least:
            raise OptionError(f"{name}={options[name]} is too small; use {least} or more")
    if not options["step"] > 0:
        raise OptionError(f"step={options['step']} does not climb; use for example 0.15")
    if Capability.GRADIENTS not in model.capabilities:
        raise RequirementError(
            f"a class picture needs gradients, which {model.name} does not offer; "
            "wrap the module itself with seewhy.wrap"
        )


def _input_size(model: VisionModel) -> tuple[int, int]:
    size = getattr(model.preprocess, "size", None)
    if size is None:
        raise OptionError(f"the input size of {model.name} is not known; pass size=(rows, cols)")
    return tuple(size)


def _picture(model: VisionModel, x: Float[Tensor, "3 height width"]) -> Image.Image:
    """For the eye: the inverse of the model's normalization, or the full range where that is not known."""
    x = x.float().cpu()
    if hasattr(model.preprocess, "denormalize"):
        return load_image(model.preprocess.denormalize(x))
    low, high = x.min(), x.max()
    return load_image((x - low) / (high - low).clamp(min=1e-12))
