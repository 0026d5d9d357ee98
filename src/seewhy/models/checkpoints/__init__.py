"""Checkpoint files: read safely, taken out of what training wrapped round them, and loaded into an architecture."""

from __future__ import annotations

from seewhy.models.checkpoints.fitting import fit, load_into, misfit
from seewhy.models.checkpoints.reading import SUFFIXES, State, read_state
from seewhy.models.checkpoints.recognizing import Candidate, recognize
from seewhy.models.checkpoints.unwrapping import Checkpoint, unwrap

__all__ = [
    "SUFFIXES",
    "Candidate",
    "Checkpoint",
    "State",
    "fit",
    "load_into",
    "misfit",
    "read_state",
    "recognize",
    "unwrap",
]
