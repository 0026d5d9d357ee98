"""Layer-wise relevance propagation: for convolutional networks, for transformers, and from an embedding."""
