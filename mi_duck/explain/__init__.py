"""From a model and a sample of rows to what its features contribute: values, importances, figures."""
