"""`seewhy train ala`, `seewhy train abn` and `seewhy train ablation`: explainers that are fitted to a model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Plan = Annotated[str, typer.Argument(help="The plan: a TOML file, or a preset: ala_cub, ala_imagenet_s.")]
Out = Annotated[Path, typer.Option("--out", "-o", help="Folder for the fitted explainer, its checkpoint and log.")]
Root = Annotated[Path | None, typer.Option(help="Folder of the data, in place of the plan's.")]
Number = Annotated[int | None, typer.Option("--n", help="Number of images, in place of the plan's.")]
Model = Annotated[str | None, typer.Option("--model", "-m", help="The encoder, in place of the plan's.")]
Settings = Annotated[list[str] | None, typer.Option("--set", help="table.key=value in the plan; may repeat.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, mps …; default: the fastest available.")]
Resume = Annotated[bool, typer.Option("--resume", help="Continue from the checkpoint in --out.")]


def ala(
    plan: Plan,
    out: Out,
    root: Root = None,
    n: Number = None,
    model: Model = None,
    settings: Settings = None,
    device: Device = None,
    resume: Resume = False,
) -> None:
    """Fit an Attention Lattice Adapter to a vision transformer; `explain --method ala --weights OUT` then uses it."""
    _train("ala", plan, out, root, n, model, settings, device, resume)


def abn(
    plan: Plan,
    out: Out,
    root: Root = None,
    n: Number = None,
    model: Model = None,
    settings: Settings = None,
    device: Device = None,
    resume: Resume = False,
) -> None:
    """Fit an Attention Branch Network to a feature map; `explain --method abn --weights OUT` then uses it."""
    _train("abn", plan, out, root, n, model, settings, device, resume)


def _train(
    method: str,
    plan: str,
    out: Path,
    root: Path | None,
    n: int | None,
    model: str | None,
    settings: list[str] | None,
    device: str | None,
    resume: bool,
) -> None:
    from seewhy.training.explainer_plan import ExplainerPlan, as_toml

    given = {"data.root": None if root is None else str(root), "data.n": n, "model": model}
    changes = [f"{key}={as_toml(value)}" for key, value in given.items() if value is not None]
    fitted = ExplainerPlan.read(method, plan, [*changes, *(settings or [])]).run(out, device=device, resume=resume)
    best = fitted.fitted.training["best"]
    known = {"accuracy": "val_accuracy", "loss": "val_loss"} if "val_loss" in best else {"loss": "loss"}
    figures = ", ".join(f"{name} {best[key]:.3f}" for name, key in known.items())
    typer.echo(f"epoch {best['epoch'] + 1}: {figures}; explain with --method {method} --weights {out}")


def ablation(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the runs, the table and the figure.")],
    quick: Annotated[bool, typer.Option("--quick", help="A few images and steps: does all work?")] = False,
    seeds: Annotated[int | None, typer.Option(min=1, help="Trainings of each variant, in place of the plan's.")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="key=value of the study; may repeat.")] = None,
) -> None:
    """Train ALA and its three ablations on scenes, and score them beside other methods; a killed study goes on."""
    from seewhy.training.ablation import Study

    study = Study.planned(quick, seeds, settings or [])
    study.run(out, typer.echo)
    typer.echo(out / "ablation.md")
