from .activation_maximization import ClassVisualization as ClassVisualization, visualize_class as visualize_class
from .concept_activation import CAV as CAV, TCAV as TCAV, cav as cav, tcav as tcav
from .randomization import (
    CascadingRandomization as CascadingRandomization,
    RandomizationStep as RandomizationStep,
    randomization_test as randomization_test,
)
from .segmentation import Segmentation as Segmentation, segment_object as segment_object
