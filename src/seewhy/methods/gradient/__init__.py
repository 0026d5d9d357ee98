"""Methods made of gradients at the pixels: plain, smoothed, integrated along a path, or with other ReLUs."""
