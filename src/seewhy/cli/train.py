"""`seewhy train …`: heads, fine-tuning, explainers, the reference models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from seewhy.cli import common
from seewhy.cli.loading import Loading, with_model
from seewhy.cli.train_explainers import ablation, abn, ala
from seewhy.errors import OptionError

if TYPE_CHECKING:
    from seewhy.data.base import Dataset
    from seewhy.training.history import History

app = typer.Typer(
    help="Train heads and explainers, fine-tune models, and make the reference models.", no_args_is_help=True
)
for command in (ala, abn, ablation):
    app.command(command.__name__)(command)

Data = Annotated[
    str,
    typer.Argument(
        help="A folder of images (images/<class>/…), or with --root the name of a dataset: `seewhy data list`.",
        show_default=False,
    ),
]
Root = Annotated[Path | None, typer.Option(help="Folder of the dataset that DATA names.")]
Split = Annotated[str | None, typer.Option(help="Part of the dataset; default: its first.")]
DataOptions = Annotated[list[str] | None, typer.Option("--data-option", help="name=value of the dataset; repeatable.")]
Out = Annotated[Path, typer.Option("--out", "-o", help="Folder for checkpoints, log and weights.")]
Resume = Annotated[bool, typer.Option("--resume/--no-resume", help="Continue the run in --out.")]
ReadWorkers = Annotated[int, typer.Option(min=0, help="Processes that read images; 0: none beside this one.")]


@app.command()
@with_model
def head(
    model: common.Model,
    data: Data,
    out: Out,
    loading: Loading,
    root: Root = None,
    split: Split = None,
    data_option: DataOptions = None,
    validation_split: Annotated[str | None, typer.Option(help="Part of the dataset to measure on.")] = None,
    holdout: Annotated[
        float | None, typer.Option(min=0.01, max=0.9, help="Without --validation-split: share held back to measure on.")
    ] = None,
    epochs: Annotated[int, typer.Option(min=1, help="How often each sample is seen.")] = 10,
    batch_size: Annotated[int, typer.Option(min=1, help="Samples per step.")] = 128,
    lr: Annotated[float, typer.Option(help="Learning rate of Adam.")] = 3e-4,
    weight_decay: Annotated[float, typer.Option(help="Of Adam.")] = 0.0,
    views: Annotated[
        int, typer.Option(min=0, help="Random crops and flips of each image; 0: the whole image, once.")
    ] = 0,
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 0,
    cache: Annotated[Path | None, typer.Option(help="Where features are kept; default: in --out.")] = None,
    workers: ReadWorkers = 0,
    resume: Resume = False,
) -> None:
    """Train a linear classifier on a frozen backbone; open it with --head OUT wherever a model is opened."""
    from seewhy.training.linear_head import train_head

    dataset = _dataset(data, root, split, data_option)
    measured = _dataset(data, root, validation_split, data_option) if validation_split else holdout
    trained = train_head(
        loading.model(model),
        dataset,
        out=out,
        validation=measured,
        epochs=epochs,
        batch_size=batch_size,
        lr=lr,
        weight_decay=weight_decay,
        views=views,
        seed=seed,
        cache=cache,
        workers=workers,
        resume=resume,
        progress=common.progress,
    )
    _report_left_out(trained.left_out)
    _print_history(trained.history)
    typer.echo(f"done; open it with --model {model} --head {trained.path}")


@app.command()
@with_model
def finetune(
    model: common.Model,
    data: Data,
    out: Out,
    loading: Loading,
    root: Root = None,
    split: Split = None,
    data_option: DataOptions = None,
    quantity: Annotated[
        list[str] | None,
        typer.Option(help="A number that samples have (diameter, age …), to be learned; repeatable. Default: classes."),
    ] = None,
    folds: Annotated[int | None, typer.Option(min=2, help="Cross-validate over this many stratified folds.")] = None,
    blocks: Annotated[
        str, typer.Option(help="How many of the last blocks (of a CNN: stages) are trained: a number, or all.")
    ] = "4",
    dropout: Annotated[float, typer.Option(help="In the backbone's dropout layers.")] = 0.003,
    epochs: Annotated[int, typer.Option(min=1, help="At most.")] = 50,
    batch_size: Annotated[int, typer.Option(min=1, help="Samples per step.")] = 32,
    lr: Annotated[float, typer.Option(help="Learning rate α.")] = 3e-4,
    decay: Annotated[float, typer.Option(help="β: the rate in epoch e is α·βᵉ.")] = 0.95,
    schedule: Annotated[str, typer.Option(help="exponential, constant, cosine or cyclic.")] = "exponential",
    optimizer: Annotated[str, typer.Option(help="adam, adamw or sgd.")] = "adam",
    weight_decay: Annotated[float, typer.Option(help="Of the optimizer.")] = 0.0,
    loss: Annotated[str, typer.Option(help="Of quantities: mse or huber.")] = "mse",
    balance: Annotated[str, typer.Option(help="Of classes: drop, weights or none.")] = "drop",
    augment: Annotated[str, typer.Option(help="flip, turn, rotate, crop, with commas between them, or none.")] = "flip",
    patience: Annotated[int, typer.Option(min=1, help="Epochs without gain after which training stops.")] = 5,
    precision: Annotated[str, typer.Option(help="32, bf16 or 16.")] = "32",
    accumulate: Annotated[int, typer.Option(min=1, help="Parts into which a batch is cut, to save memory.")] = 1,
    devices: Annotated[int, typer.Option(min=1, help="GPUs, or processes, that take part.")] = 1,
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 0,
    workers: ReadWorkers = 0,
    resume: Resume = False,
) -> None:
    """Fine-tune the last blocks of a model to tell classes apart, or to measure quantities; open it as --model OUT."""
    from seewhy.training import fine_tuning

    settings = fine_tuning.FineTuneSettings(
        blocks=_blocks(blocks),
        dropout=dropout,
        epochs=epochs,
        batch_size=batch_size,
        lr=lr,
        decay=decay,
        schedule=schedule,
        optimizer=optimizer,
        weight_decay=weight_decay,
        loss=loss,
        balance=None if balance == "none" else balance,
        augment=tuple(word.strip() for word in augment.split(",") if word.strip() not in ("", "none")),
        patience=patience,
        precision=precision,
        accumulate=accumulate,
        devices=devices,
        workers=workers,
        seed=seed,
    )
    opened, dataset = loading.model(model), _dataset(data, root, split, data_option)
    common_options: dict[str, Any] = {"quantities": quantity or (), "settings": settings, "base": loading.base(model)}
    if folds is not None:
        result = fine_tuning.cross_validate(
            opened, dataset, out=out, folds=folds, resume=resume, progress=True, **common_options
        )
        left_out, leads = result.folds[0].left_out, result.folds[0].history.leads
        lines = [f"{name:20s} {value:.4f} ± {result.std[name]:.4f}" for name, value in result.mean.items()]
    else:
        tuned = fine_tuning.finetune(opened, dataset, out=out, resume=resume, progress=True, **common_options)
        left_out, leads = tuned.left_out, tuned.history.leads
        lines = [f"{name:20s} {value:.4f}" for name, value in tuned.figures.items()]
        lines.append(f"done; open it with --model {out}")
    if leads:
        _report_left_out(left_out)
        typer.echo("\n".join(lines))


@app.command()
@with_model
def lidc(
    model: common.Model,
    out: Out,
    loading: Loading,
    root: Annotated[
        Path | None, typer.Option(help="LIDC-IDRI, or prepared crops; without, synthetic nodules are drawn.")
    ] = None,
    data_option: DataOptions = None,
    n: Annotated[int, typer.Option("--n", min=20, help="How many synthetic nodules.")] = 2400,
    small: Annotated[
        bool | None,
        typer.Option(
            "--small/--paper", help="Settings for a small ViT, all weights; or the paper's. Default: by --root."
        ),
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="In place of the settings'.")] = None,
    dropout: Annotated[float | None, typer.Option(help="In place of the settings'.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="In place of the settings'.")] = None,
    precision: Annotated[str | None, typer.Option(help="32, bf16 or 16, in place of the settings'.")] = None,
    nodules: Annotated[
        int | None, typer.Option(min=1, help="How many test nodules are explained; default: all")
    ] = None,
    workers: ReadWorkers = 0,
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 0,
    resume: Resume = False,
) -> None:
    """Repeat the CDAM paper's study of lung nodules: malignancy, eight biomarkers, and a map of each; -m is a ViT."""
    from dataclasses import replace

    from seewhy.data import LIDC, Nodules
    from seewhy.training.fine_tuning import SHARES, FineTuneSettings
    from seewhy.training.nodule_study import SMALL, lidc_study

    is_small = root is None if small is None else small
    changes: dict[str, Any] = {"epochs": epochs, "dropout": dropout, "batch_size": batch_size, "precision": precision}
    settings = replace(
        SMALL if is_small else FineTuneSettings(),
        **{name: value for name, value in changes.items() if value is not None},
        workers=workers,
        seed=seed,
    )
    data = LIDC(root, **common.parse_options(data_option)) if root else Nodules(n, seed)
    study = lidc_study(
        loading.model(model),
        data,
        out=out,
        settings=settings,
        shares=(0.8, 0.1, 0.1) if is_small else SHARES,
        nodules=nodules,
        base=loading.base(model),
        resume=resume,
        progress=common.progress,
    )
    typer.echo((study.folder / "study.md").read_text("utf-8"))
    typer.echo(f"the figure is {study.folder / 'figure.png'}")


def _blocks(text: str) -> int | None:
    if text == "all":
        return None
    if not text.isdigit():
        raise OptionError(f"--blocks {text!r} is not accepted; write a number, or all")
    return int(text)


def _report_left_out(left_out: Mapping[str, str]) -> None:
    for name, reason in list(left_out.items())[:5]:
        common.report_error(name, f"left out: {reason}")
    if len(left_out) > 5:
        typer.echo(f"{len(left_out)} samples were left out in all", err=True)


def _dataset(data: str, root: Path | None, split: str | None, options: Sequence[str] | None) -> Dataset:
    """Open a folder of images, or a dataset by its name."""
    from seewhy.data import DATASETS, load_data

    pairs = common.parse_options(options)
    if root is None and Path(data).is_dir() and data not in DATASETS:
        return load_data("folder", data, split, **pairs)
    return load_data(data, root, split, **pairs)


def _print_history(history: History) -> None:
    """Print the figures of the epoch whose weights were kept."""
    line = history.best_line
    shown = "  ".join(f"{k} {v:.4f}" for k, v in line.items() if k not in ("epoch", "step", "seconds", "lr"))
    typer.echo(f"epoch {line['epoch'] + 1} of {len(history.epochs)}: {shown}")


@app.command()
def scenes(
    model: Annotated[str, typer.Option(help="Which recipe: scenes_cnn, scenes_vit, scenes_vit_registers …")],
    out: Annotated[Path, typer.Option(help="Folder for checkpoints, log and weights.")],
    resume: Annotated[
        bool, typer.Option("--resume/--no-resume", help="Continue from the checkpoint in --out.")
    ] = False,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps …")] = "cpu",
    devices: Annotated[int, typer.Option(min=1, help="GPUs, or processes, that take part.")] = 1,
    precision: Annotated[str, typer.Option(help="bf16 or fp32.")] = "bf16",
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads of torch.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes that draw the training set.")] = 2,
    every: Annotated[int, typer.Option(min=1, help="Steps between checkpoints.")] = 250,
    pool_dir: Annotated[Path | None, typer.Option(help="Where drawn scenes are kept (default: in --out).")] = None,
    changes: Annotated[list[str] | None, typer.Option("--set", help="Change the recipe: --set steps=500.")] = None,
) -> None:
    """Train a reference model of the scenes; a killed run continues with --resume and ends in the same bits."""
    from seewhy.training.recipes import parse_changes
    from seewhy.training.scenes import train

    train(
        model,
        out,
        resume=resume,
        device=device,
        devices=devices,
        precision=precision,
        threads=threads,
        workers=workers,
        every=every,
        pool_dir=pool_dir,
        **parse_changes(changes or []),
    )
    typer.echo(f"done; the weights are in {out / 'model.safetensors'}")


@app.command()
def ship(
    model: Annotated[str, typer.Option(help="The recipe that was trained.")],
    run: Annotated[Path, typer.Option(help="Its --out folder.")],
    weights: Annotated[Path, typer.Option(help="Folder that gets the weights, figures and card.")],
    n: Annotated[int, typer.Option(min=1, help="Scenes per split to measure on.")] = 1000,
) -> None:
    """Measure a finished run; write its half-precision weights, figures and card into a folder."""
    from seewhy.training import export

    for split, figures in export.ship(model, run, weights, n)["figures"].items():
        typer.echo(f"{split:10s} " + "  ".join(f"{k} {v:.4f}" for k, v in figures.items()))
