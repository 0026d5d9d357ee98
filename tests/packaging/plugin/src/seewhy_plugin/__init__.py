"""Adds one of each kind to seewhy by entry points."""
