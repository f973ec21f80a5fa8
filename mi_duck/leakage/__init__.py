"""Looks for features that give the label away."""
