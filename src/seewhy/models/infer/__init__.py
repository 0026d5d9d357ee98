"""Find the structure of an unknown module."""
