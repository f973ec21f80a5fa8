"""Any classifier in the place of the boosted trees: cross-validated on the same folds, and joined with other runs."""
