"""The studies behind the pages of docs/studies run, on a few scenes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def make(folder: Path, name: str) -> str:
    """Make a study's page as `make studies` does, and return its text."""
    command = [sys.executable, "-m", "scripts.studies", name, "--quick"]
    where = ["--out", str(folder / "docs"), "--work", str(folder / "runs")]
    subprocess.run([*command, *where], check=True, cwd=ROOT)
    return (folder / "docs" / f"{name}.md").read_text("utf-8")


def test_the_study_of_label_free_maps_says_what_it_found(tmp_path):
    text = make(tmp_path, "lafam_vit")
    assert "AUC 0.9" in text.splitlines()[2]
    assert "scenes_vit_registers" in text
    assert (tmp_path / "docs" / "lafam_vit.jpg").stat().st_size > 10_000


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", ["fair_metrics", "nave_training", "cdam_options", "model_size", "metric_agreement"])
def test_the_other_studies_run(name, tmp_path):
    text = make(tmp_path, name)
    assert "**" in text
    assert "nan" not in text.splitlines()[2]
