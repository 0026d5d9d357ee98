from .checkpoint import read_tensors as read_tensors, save_tensors as save_tensors
from .history import History as History
from .schedules import (
    Constant as Constant,
    Cosine as Cosine,
    Cyclic as Cyclic,
    Exponential as Exponential,
    Moment as Moment,
)
from .task import SampleData as SampleData, Task as Task, TrainingData as TrainingData
from .trainer import fit as fit
