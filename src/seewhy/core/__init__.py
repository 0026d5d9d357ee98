"""Ground floor: cards and registries, images and preprocessing, operations on maps, files."""
