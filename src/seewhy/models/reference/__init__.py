"""The small networks that ship with the package."""
