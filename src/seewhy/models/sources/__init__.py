"""Where models come from: one file (or package) per library, each a `base.ModelSource`."""
