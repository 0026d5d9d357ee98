"""seewhy: what does this model see, and why does it say so?"""

__version__ = "0.1.0"
