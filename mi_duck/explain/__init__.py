"""What the features contribute to a model."""
