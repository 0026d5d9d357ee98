"""Methods that cluster the positions of feature maps."""
