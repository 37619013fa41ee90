"""From sources to batches: the corpus folder, its splits, and `batch(step)`."""
