"""Looks for features that leak the label."""
