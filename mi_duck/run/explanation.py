"""What is stored about the explanation of a run, and whether one can be made; loads neither XGBoost nor shap."""

import importlib.util
import json
from pathlib import Path
from typing import Any

from mi_duck.atomic_files import file_sha256
from mi_duck.errors import CheckpointError, DataError
from mi_duck.run.folder import RunFolder

SUMMARY = "shap_analysis_summary.json"
VERSION = 1


def check_background() -> None:
    """Refuse a background where the shap package, which computes interventional values, is absent.

    Raises
    ------
    DataError
        It is absent.
    """
    if importlib.util.find_spec("shap") is None:
        raise DataError("a background needs the shap package: pip install 'mi-duck[shap]', or leave the background out")


def read_summary(folder: RunFolder) -> dict[str, Any]:
    """Return the summary of an explained run."""
    return dict(json.loads((folder.shap / SUMMARY).read_bytes()))


def is_explained(folder: RunFolder, *, sample_size: int, background_size: int, with_figures: bool) -> bool:
    """Return whether a run's model was explained with so many rows, and every file of that is there and unchanged."""
    try:
        summary, suspects = read_summary(folder), read_suspects(folder.root)
        return bool(
            summary["version"] == VERSION
            and summary["model_sha256"] == file_sha256(folder.model)
            and summary["sampling"]["n_rows_wanted"] == sample_size
            and summary["background"]["n_rows_wanted"] == background_size
            and (not with_figures or any(name.endswith(".png") for name in summary["files"]))
            and summary["suspects"] == (None if suspects is None else sorted(suspects))
            and all(file_sha256(folder.shap / name) == digest for name, digest in summary["files"].items())
            and folder.shap_importance.is_file()
        )
    except (OSError, ValueError, KeyError, TypeError):
        return False


def read_suspects(run: Path) -> frozenset[str] | None:
    """Return the features that the leakage report of a run names, or None where there is no report.

    Raises
    ------
    CheckpointError
        The report is damaged.
    """
    path = RunFolder(run).leakage / "leakage.json"
    if not path.is_file():
        return None
    try:
        suspects = json.loads(path.read_bytes())["suspects"]
        return frozenset(one if isinstance(one, str) else str(one["feature"]) for one in suspects)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} names no suspects: {error}; delete it or make it again") from error
