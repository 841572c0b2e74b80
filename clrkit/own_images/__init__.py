"""From a folder of one's own images to an evaluated model."""
