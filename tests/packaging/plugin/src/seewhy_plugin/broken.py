"""A plugin that does not load: it must cost itself only."""

raise RuntimeError("this plugin was written for another version")
