"""What a run has seen: digests of images and annotations, so that it does not go on with others of the same names."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

import numpy as np

from seewhy.bench.parts import part_name
from seewhy.bench.samples import IndexedSample
from seewhy.bench.setup import Benchmark, ModelSummary
from seewhy.bench.store import Store
from seewhy.core.deep import DeepImage
from seewhy.data.base import Sample
from seewhy.errors import DataError, SeewhyError

NOTE = "seewhy.samples"
"""Under which key the part of the model's own answers has the digests of its samples, by position."""

LOOKED_AT = 16
"""Images of finished batches that are read again when a run goes on."""


def digest_of(sample: Sample) -> str:
    """Return a digest of a sample's pixels, labels, masks and boxes."""
    image = sample.image
    pixels = image.values if isinstance(image, DeepImage) else np.asarray(image)
    found = hashlib.blake2b(digest_size=8)
    for part in (pixels, np.asarray(sample.labels), sample.masks, sample.boxes, sample.ignore):
        if part is not None:
            found.update(f"{part.shape}{part.dtype}".encode())
            found.update(np.ascontiguousarray(part).tobytes())
    return found.hexdigest()


def note_of(samples: Sequence[IndexedSample]) -> dict[str, str]:
    """Return what a part notes of its samples."""
    return {NOTE: json.dumps({str(index): digest_of(sample) for index, sample in samples})}


def check_seen(store: Store, part: str, samples: Sequence[IndexedSample]) -> None:
    """Check that samples are those that a part was made of; a part that is not there, or older, does not tell.

    Raises:
        DataError: When any of them has changed.
    """
    seen = json.loads(store.about(part).get(NOTE, "{}"))
    changed = [sample.id for i, sample in samples if str(i) in seen and seen[str(i)] != digest_of(sample)]
    if changed:
        raise DataError(
            f"{', '.join(changed[:3])}{' …' * (len(changed) > 3)}: image or annotation changed since the run began; "
            "put the old ones back, or start another run"
        )


def check_finished(benchmark: Benchmark, store: Store, models: Sequence[ModelSummary]) -> None:
    """Read some images of finished batches again; those of a batch that goes on are all checked anyway.

    Raises:
        DataError: When any of them has changed.
    """
    done = store.done()
    batches = [b for b in range(len(benchmark.batches)) if part_name(models[0].label, "", b) in done]
    for batch in batches[:: max(1, len(batches) // LOOKED_AT)]:
        index = benchmark.batches[batch][0]
        try:
            sample = benchmark.data[index]
        except SeewhyError:  # an image that cannot be read was a row before, and is one now
            continue
        check_seen(store, part_name(models[0].label, "", batch), [(index, sample)])
