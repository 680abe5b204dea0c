"""From the archive to batches: archive, index, splits, leaks, pixels, pipeline, synthetic."""
