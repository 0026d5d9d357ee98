"""Concept CDAM: CDAM for a concept that was never a class."""

from __future__ import annotations

from seewhy.core.cards import Capability
from seewhy.errors import TargetError
from seewhy.methods.attention.cdam import CDAM
from seewhy.methods.base import method
from seewhy.targets import PerImage, Target


@method(
    name="concept_cdam",
    title="Concept CDAM",
    summary="Which patches make the image resemble a concept given by example images.",
    needs={Capability.LAST_BLOCK, Capability.GRADIENTS, Capability.EMBEDDING},
    signed=True,
    class_specific=True,
    target_kind="concept",
    citation="Brocki et al., Class-Discriminative Attention Maps (2024), arXiv:2312.02364, eq. 3-4",
    cost=lambda self: self.passes(1),
)
class ConceptCDAM(CDAM):
    """CDAM of g = ⟨l(x), l_c⟩: l the embedding, l_c its plain mean over the concept's images, nothing normalized.

    The target is `seewhy.targets.concept(model, images)` (cosine and negative L2 are its options).
    """

    def check_target(self, target: Target) -> None:
        """Raise `TargetError` unless the target is a concept."""
        targets = target.targets if isinstance(target, PerImage) else (target,)
        if any(each.kind != "concept" for each in targets):
            raise TargetError(
                "Concept CDAM explains a concept; give target=seewhy.targets.concept(model, folder), "
                "or --concept FOLDER"
            )
