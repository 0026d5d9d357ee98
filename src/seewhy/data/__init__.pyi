from .base import DATASETS as DATASETS, Dataset as Dataset, Sample as Sample, dataset as dataset
from .coco import COCO as COCO
from .cub import CUB as CUB
from .folder import Folder as Folder
from .hf import HFDataset as HFDataset
from .imagenet_real import ImageNetReal as ImageNetReal
from .imagenet_s import ImageNetS as ImageNetS
from .lidc import LIDC as LIDC
from .load import load_data as load_data
from .nodules import Nodules as Nodules
from .scenes import Scene as Scene, Scenes as Scenes
from .voc import VOC as VOC
