"""Scores of probabilities, their calibration, and the base model they are compared with."""
