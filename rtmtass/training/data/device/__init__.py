"""Training examples made in batches on the training device, by the same recipe as on the host."""
