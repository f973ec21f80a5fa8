"""Gene-aware ensembles of XGBoost models on feature tables larger than memory.

The public names are loaded when they are first used, so that a child process imports no more than it needs.
"""

import importlib
from typing import Any

__version__ = "0.1.0"
__all__ = [
    "ConsolidatedMetaModel",
    "EnsembleClassifier",
    "InstanceModel",
    "Run",
    "blend",
    "cross_validate",
    "distil",
    "load_unified_model",
    "open_dataset",
    "run_comprehensive_ensemble_shap_analysis",
    "train",
]

_HOMES = {
    "ConsolidatedMetaModel": "mi_duck.ensemble.model",
    "EnsembleClassifier": "mi_duck.api.classifier",
    "InstanceModel": "mi_duck.ensemble.model",
    "Run": "mi_duck.api.run",
    "blend": "mi_duck.api.cross_validate",
    "cross_validate": "mi_duck.api.cross_validate",
    "distil": "mi_duck.api.distil",
    "load_unified_model": "mi_duck.classifiers.model",
    "open_dataset": "mi_duck.data.dataset",
    "run_comprehensive_ensemble_shap_analysis": "mi_duck.explain.analysis",
    "train": "mi_duck.api.train",
}


def __getattr__(name: str) -> Any:
    """Load a public name from its module."""
    if name not in _HOMES:
        raise AttributeError(f"module 'mi_duck' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """Return the public names."""
    return [*__all__, "__version__"]
