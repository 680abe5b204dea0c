"""Numbers -> figures, tables and pages. Imports no Keras and no TensorFlow."""
