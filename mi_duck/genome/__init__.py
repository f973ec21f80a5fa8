"""From genome and annotation, or from a seed, to a dataset."""
