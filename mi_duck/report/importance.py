"""What the final boosters of an instance split on: gain, cover and weight of every feature, per class."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mi_duck.ensemble.ensemble import InstanceModel
from mi_duck.report.canvas import ENSEMBLE, short_label, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TOTALS = {
    "total_gain": "share of the total gain",
    "total_cover": "share of the total cover",
    "weight": "share of the splits (weight)",
}
SHOWN = 15


def importance_table(model: InstanceModel) -> list[dict[str, Any]]:
    """Return one record for each class and feature, the most important first.

    Returns
    -------
    list of dict
        ``class``, ``rank`` (from 1, by total gain; equal ones in the order of features), ``feature``, ``weight`` (number of
        splits), ``total_gain`` (loss reduction of these, nats times XGBoost's factor), ``total_cover`` (sum of second
        derivatives of the rows that came there), ``gain`` and ``cover`` (the same a split; None without a split).
    """
    rows = []
    for name, booster in zip(model.classes, model.boosters, strict=True):
        found = {kind: booster.get_score(importance_type=kind) for kind in ("weight", "total_gain", "total_cover")}
        records = []
        for place, feature in enumerate(model.features):
            weight = int(found["weight"].get(f"f{place}", 0))
            gain, cover = (float(found[kind].get(f"f{place}", 0.0)) for kind in ("total_gain", "total_cover"))
            records.append(
                {
                    "feature": feature,
                    "weight": weight,
                    "total_gain": gain,
                    "total_cover": cover,
                    "gain": gain / weight if weight else None,
                    "cover": cover / weight if weight else None,
                }
            )
        records.sort(key=lambda record: -float(record["total_gain"]))  # type: ignore[arg-type]
        rows += [{"class": name, "rank": rank} | record for rank, record in enumerate(records, start=1)]
    return rows


def importance_figure(rows: Sequence[dict[str, Any]]) -> "Figure":
    """Draw the most important features by gain, cover and weight, each as its share of all features of the class.

    Parameters
    ----------
    rows
        As `importance_table` returns them; a column of panels is a class.
    """
    from matplotlib.figure import Figure

    classes = list(dict.fromkeys(row["class"] for row in rows))
    with style():
        size = 0.4 + 3.2 * len(classes), len(TOTALS) * (0.8 + 0.17 * SHOWN)
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots(len(TOTALS), len(classes), squeeze=False)
        for line, (column, words) in zip(axes, TOTALS.items(), strict=True):
            for place, name in zip(line, classes, strict=True):
                of_class = [row for row in rows if row["class"] == name]
                total = sum(row[column] for row in of_class)
                top = [row for row in sorted(of_class, key=lambda row: -row[column]) if row[column] > 0][:SHOWN]
                place.barh(range(len(top)), [row[column] / total for row in top], height=0.66, color=ENSEMBLE)
                place.set_yticks(range(len(top)), [short_label(row["feature"]) for row in top], parse_math=False)
                place.set_ylim(max(len(top), 1) - 0.4, -0.6)
                place.set_xlim(left=0)
                place.locator_params(axis="x", nbins=4)
                place.tick_params(axis="y", length=0)
                place.grid(visible=False, axis="y")
                place.set(title=short_label(name), xlabel=words if top else "the booster has no split")
    return figure
