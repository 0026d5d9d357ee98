"""Sources of models: one file (or package) per library, each a `base.ModelSource`."""
