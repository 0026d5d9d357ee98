__version__: str

from . import (
    analysis as analysis,
)
from . import (
    bench as bench,
)
from . import (
    checks as checks,
)
from . import (
    data as data,
)
from . import (
    errors as errors,
)
from . import (
    methods as methods,
)
from . import (
    metrics as metrics,
)
from . import (
    models as models,
)
from . import (
    targets as targets,
)
from . import (
    viz as viz,
)
from .core.preprocess import Preprocess as Preprocess
from .data.load import load_data as load_data
from .errors import SeewhyError as SeewhyError
from .explainer import compare as compare
from .explainer import explain as explain
from .explainer import explain_each as explain_each
from .explainer import list_methods as list_methods
from .explanation import Explanation as Explanation
from .models.black_box import wrap_function as wrap_function
from .models.infer.wrapping import wrap as wrap
from .models.load import list_models as list_models
from .models.load import load_model as load_model
from .targets import concept as concept
from .targets import reference as reference
