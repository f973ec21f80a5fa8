"""Annex: the door for Python: training, the results of a run, and a classifier of scikit-learn."""
