"""Several properties in one number."""
