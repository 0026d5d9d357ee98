from .explainers import fit_explainer as fit_explainer
from .features import Features as Features, cached_features as cached_features
from .fine_tuning import (
    FineTuned as FineTuned,
    FineTuneSettings as FineTuneSettings,
    Folds as Folds,
    cross_validate as cross_validate,
    finetune as finetune,
)
from .history import History as History
from .labeled import Augmentation as Augmentation, LabeledImages as LabeledImages
from .linear_head import TrainedHead as TrainedHead, train_head as train_head
from .nodule_study import NoduleStudy as NoduleStudy, lidc_study as lidc_study
from .schedules import (
    Constant as Constant,
    Cosine as Cosine,
    Cyclic as Cyclic,
    Exponential as Exponential,
    Moment as Moment,
)
from .task import SampleData as SampleData, Task as Task, TrainingData as TrainingData
from .trainer import fit as fit
