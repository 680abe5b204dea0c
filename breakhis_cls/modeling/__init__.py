"""From batches to a trained model: devices, network, features, fitting. TensorFlow is imported here."""
