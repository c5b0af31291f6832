"""Image classifiers trained by mini-batches."""
