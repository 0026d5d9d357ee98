from .base import (
    METRICS as METRICS,
    Measurement as Measurement,
    Metric as Metric,
    MetricInputs as MetricInputs,
    metric as metric,
    option as option,
    resize_maps as resize_maps,
)
from .complexity.compactness import Compactness as Compactness
from .complexity.entropy import Entropy as Entropy
from .complexity.sparseness import Sparseness as Sparseness
from .composite.arcc import ARCC as ARCC
from .diagnosis.diagnosis import Diagnosis as Diagnosis
from .faithfulness.box_discrimination import BoxDiscrimination as BoxDiscrimination
from .faithfulness.box_sensitivity import BoxSensitivity as BoxSensitivity
from .faithfulness.deletion import Deletion as Deletion
from .faithfulness.fidelity import Fidelity as Fidelity
from .faithfulness.fidelity_discrimination import FidelityDiscrimination as FidelityDiscrimination
from .faithfulness.id_score import IDScore as IDScore
from .faithfulness.infidelity import Infidelity as Infidelity
from .faithfulness.insertion import Insertion as Insertion
from .faithfulness.road import ROAD as ROAD
from .localization.attribution_localization import AttributionLocalization as AttributionLocalization
from .localization.auc import AUC as AUC
from .localization.box_iou import BoxIoU as BoxIoU
from .localization.cluster_boxes import ClusterBoxes as ClusterBoxes
from .localization.energy_pointing import EnergyPointing as EnergyPointing
from .localization.miou import MeanIoU as MeanIoU
from .localization.multi_object import MultiObject as MultiObject
from .localization.object_choice import ObjectChoice as ObjectChoice
from .localization.pointing_game import PointingGame as PointingGame
from .localization.relevance_mass_accuracy import RelevanceMassAccuracy as RelevanceMassAccuracy
from .localization.relevance_rank_accuracy import RelevanceRankAccuracy as RelevanceRankAccuracy
from .localization.top_k_intersection import TopKIntersection as TopKIntersection
from .sanity.randomization import Randomization as Randomization
