from .adapter import VisionModel as VisionModel
from .black_box import wrap_function as wrap_function
from .finetuned import load_finetuned as load_finetuned
from .heads import attach_head as attach_head
from .infer.wrapping import wrap as wrap
from .load import list_models as list_models, load_model as load_model
from .sources.base import ModelSource as ModelSource
from .structure import Block as Block, Layer as Layer, Structure as Structure
