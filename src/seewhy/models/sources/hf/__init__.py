"""Vision models of transformers, from the Hugging Face hub or a folder in its format.

Nothing here imports transformers at import.
"""

from .inspection import recognizes as recognizes
from .inspection import structure as structure
from .inspection import tower as tower
from .loading import EXTRA as EXTRA
from .loading import load as load
from .loading import names as names
from .loading import preprocess as preprocess

PREFIX = "hf/"
PACKAGE = "transformers"
DISTRIBUTIONS = ("transformers",)
