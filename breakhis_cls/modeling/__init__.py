"""From batches to a trained model: devices, resnet, features, fitting. TensorFlow is imported here."""
