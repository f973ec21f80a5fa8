"""Gene-aware ensembles of XGBoost models on feature tables larger than memory."""

__version__ = "0.1.0"
