"""Methods that read or differentiate the attention of a vision transformer."""
