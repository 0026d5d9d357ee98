"""Methods that are fitted to a model before they explain it, with `seewhy train`."""
