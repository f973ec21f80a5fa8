"""The leakage report as a figure: the features that separate a class best, each alone, suspects marked."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mi_duck.report.canvas import BASE, ENSEMBLE, MUTED, SERIES, new_figure, save, short_label, style

MOST_FEATURES = 25


def plot_leaks(folder: Path, rows: Sequence[Mapping[str, Any]], base_scores: Sequence[str]) -> None:
    """Write ``leakage.pdf`` and ``leakage.svg``.

    Parameters
    ----------
    folder
        Folder of the report.
    rows
        Lines of ``leakage.csv``.
    base_scores
        Features that are expected to be strong.
    """
    best: dict[str, Mapping[str, Any]] = {}
    suspects = {row["feature"] for row in rows if row["verdict"] == "suspect"}
    for row in rows:
        name = row["feature"]
        known = best.get(name)
        # of a suspect the first comparison that accuses it
        is_accusing = row["verdict"] == "suspect" and (known is None or known["verdict"] != "suspect")
        is_larger = name not in suspects and (known is None or row["auc"] > known["auc"])
        if row["auc"] != "" and (is_accusing or is_larger):
            best[name] = row
    order = sorted(best, key=lambda name: (name not in suspects, -best[name]["auc"], name))
    shown = sorted(order[:MOST_FEATURES], key=lambda name: (best[name]["auc"], name))
    with style():
        figure, (axes,) = new_figure(6.4, 1.1 + 0.19 * max(len(shown), 1))
        marks = (("feature", "o", ENSEMBLE), ("base score", "D", BASE), ("suspect", "X", SERIES[1]))
        for kind, marker, color in marks:
            places = [
                place
                for place, name in enumerate(shown)
                if kind == ("suspect" if name in suspects else "base score" if name in base_scores else "feature")
            ]
            values = [best[shown[place]]["auc"] for place in places]
            lines = [best[shown[place]] for place in places]
            below = [line["auc"] - (line["auc"] if line["low"] == "" else line["low"]) for line in lines]
            above = [(line["auc"] if line["high"] == "" else line["high"]) - line["auc"] for line in lines]
            axes.errorbar(
                values, places, xerr=[below, above], fmt=marker, color=color, markersize=4.5, elinewidth=1, label=kind
            )
        axes.axvline(0.5, color=MUTED, linewidth=0.8)
        axes.set_yticks(range(len(shown)), [short_label(name) for name in shown])
        for place, name in enumerate(shown):
            axes.annotate(
                _remark(best[name]),
                (1.01, place),
                xycoords=("axes fraction", "data"),
                va="center",
                color=MUTED,
                fontsize=6.5,
            )
        axes.set_xlim(0.48, 1.01)
        axes.set_ylim(-0.7, len(shown) - 0.3)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("area under the ROC curve of the column alone, 95 % interval over fold groups")
        axes.set_title("What single columns tell of the label" + ("" if suspects else "; none is suspect"))
        axes.legend(loc="lower right")
        for suffix in (".pdf", ".svg"):
            save(figure, folder / f"leakage{suffix}")


def _remark(row: Mapping[str, Any]) -> str:
    """Return the comparison, and for a suspect the kind of its reason."""
    kind, *more = str(row["reason"]).split(" in ")
    return f"{row['comparison']}: {short_label(kind)}" if more else str(row["comparison"])
