"""Scores base model, members and ensemble."""
