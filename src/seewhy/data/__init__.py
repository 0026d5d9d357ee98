"""Data sets."""

from .scenes import Scene, Scenes

__all__ = ["Scene", "Scenes"]
