"""A PNG file -> a batch: pixel store, augmentation, stains, tf.data."""
