from .activation_maximization import ClassVisualization as ClassVisualization, visualize_class as visualize_class
from .concept_activation import CAV as CAV, TCAV as TCAV, cav as cav, tcav as tcav
from .graph_cut import Segmentation as Segmentation, segment_object as segment_object
from .randomization import (
    CascadingRandomization as CascadingRandomization,
    RandomizationStep as RandomizationStep,
    randomization_test as randomization_test,
)
from .segments import ImageSegments as ImageSegments, segment as segment
