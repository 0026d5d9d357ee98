"""Targets of explanations: a class, a concept, an embedding, an output, or any function of the output.

A target turns a model's `Output` into one number per image. Every method takes any target, so each gradient or CAM
method is also a label-free method when the target is made of the embedding.
"""

from seewhy.targets.against import Against as Against, against as against
from seewhy.targets.base import Detections as Detections, Output as Output, PerImage as PerImage, Target as Target
from seewhy.targets.classes import (
    ClassTarget as ClassTarget,
    Rank as Rank,
    Regression as Regression,
    Truth as Truth,
    as_outputs as as_outputs,
    class_index as class_index,
    top as top,
)
from seewhy.targets.detections import Detection as Detection
from seewhy.targets.functions import (
    MEASURES as MEASURES,
    Custom as Custom,
    Similarity as Similarity,
    concept as concept,
    embedding_norm as embedding_norm,
    embedding_sum as embedding_sum,
    reference as reference,
    text as text,
)
from seewhy.targets.parse import (
    OneTarget as OneTarget,
    TargetLike as TargetLike,
    as_detection as as_detection,
    as_region as as_region,
    as_target as as_target,
    tiled_rows as tiled_rows,
)
from seewhy.targets.probability import Probability as Probability, as_probability as as_probability
from seewhy.targets.regions import Region as Region
