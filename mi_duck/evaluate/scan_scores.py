"""Scores over every position of genes as lines of ``metrics.csv``."""

from collections.abc import Mapping
from typing import Any

from mi_duck.evaluate.holdout import add_lines
from mi_duck.metrics.metrics import GAIN
from mi_duck.run.folder import RunFolder

EVALUATED_ON = "positions"
VARIANTS = {"base": "base scores as given", "ensemble": "by fold", GAIN: GAIN}


def add_scan_scores(folder: RunFolder, found: Mapping[str, Any]) -> None:
    """Add lines ``positions`` to ``metrics.csv``, instead of those that are there.

    Parameters
    ----------
    found
        ``true_rate.json`` of the run; of one that was left out there are no lines.
    """
    facts = found.get("facts", {})
    lines = [
        {
            "scope": "difference" if one["model"] == GAIN else one["model"],
            "evaluated_on": EVALUATED_ON,
            "variant": VARIANTS[one["model"]],
            "is_chosen": int(one["model"] == "ensemble"),
            "class": one["class"],
            "metric": one["metric"],
            "too_narrow": found["too_narrow"],
            "n_genes": facts["n_genes"],
            "n_rows": facts["n_positions"],
        }
        | {name: one[name] for name in ("value", "low", "high")}
        for one in found.get("scores", ())
    ]
    add_lines(folder.metrics, lines, instead_of=EVALUATED_ON)
