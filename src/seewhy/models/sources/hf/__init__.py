"""Vision models of transformers, from the Hugging Face hub or a folder in its format.

Nothing here imports transformers at import.
"""

from .inspection import recognizes as recognizes, structure as structure
from .loading import EXTRA as EXTRA, load as load, names as names, preprocess as preprocess
from .text import text as text
from .towers import tower as tower

PREFIX = "hf/"
PACKAGE = "transformers"
DISTRIBUTIONS = ("transformers",)
