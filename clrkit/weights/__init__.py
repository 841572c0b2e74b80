"""Models from elsewhere: official TensorFlow checkpoints."""
