"""Methods made of a layer's activations, weighted by gradients, by scores, or not at all."""
