"""From predictions.csv to what people look at. Works from tables alone; never imports TensorFlow."""
