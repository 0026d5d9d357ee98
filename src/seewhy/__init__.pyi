__version__: str

from . import (
    analysis as analysis,
    bench as bench,
    checks as checks,
    data as data,
    errors as errors,
    methods as methods,
    metrics as metrics,
    models as models,
    targets as targets,
    viz as viz,
)
from .analysis.activation_maximization import visualize_class as visualize_class
from .analysis.concept_activation import tcav as tcav
from .analysis.randomization import randomization_test as randomization_test
from .analysis.segments import segment as segment
from .bench.evaluation import evaluate as evaluate
from .core.images import image_paths as image_paths
from .core.preprocess import Preprocess as Preprocess
from .core.volumes import VolumePreprocess as VolumePreprocess
from .data.load import load_data as load_data
from .errors import SeewhyError as SeewhyError
from .explainer import compare as compare, explain as explain, explain_each as explain_each
from .explainer.pairs import explain_pair as explain_pair
from .explainer.tiles import explain_tiled as explain_tiled
from .explanation import Explanation as Explanation
from .explanation.volume import VolumeExplanation as VolumeExplanation
from .methods.factory import list_methods as list_methods
from .models.black_box import wrap_function as wrap_function
from .models.infer.wrapping import wrap as wrap
from .models.load import list_models as list_models, load_model as load_model
from .targets import concept as concept, reference as reference
