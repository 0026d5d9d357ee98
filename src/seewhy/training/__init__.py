"""Training of the small reference models that ship with the package."""
