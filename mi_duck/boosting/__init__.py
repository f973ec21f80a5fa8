"""From a plan to trained instances."""
