from .segmentation import Segmentation as Segmentation
