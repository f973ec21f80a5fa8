"""From importances and values to figures; computes nothing but places of dots."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mi_duck.drawing import BASE, ENSEMBLE, INK, MUTED, SERIES, new_figure, short_label, style
from mi_duck.run.feature_names import kmer_of

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure


KMER_COLOR = SERIES[2]
SUSPECT_COLOR = SERIES[1]
LETTER_COLORS = {"A": SERIES[2], "C": SERIES[0], "G": SERIES[4], "T": SERIES[1], "N": BASE}
PANELS_A_ROW = 3
BINS = 60  # of a beeswarm: dots of one bin lie above each other


@dataclass(frozen=True, slots=True)
class Bar:
    """A feature or group with its importance and standard error in log-odds; ``mark`` is ``suspect``, ``k-mer`` or empty."""

    name: str
    value: float
    error: float
    mark: str = ""


@dataclass(frozen=True, slots=True)
class Swarm:
    """One feature: its SHAP values and its own values on the same rows, NaN where missing."""

    name: str
    values: NDArray[np.float32]
    columns: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Motif:
    """A k-mer: importance in each class, and the sign of its effect there: 1 raises, -1 lowers, 0 neither."""

    kmer: str
    values: tuple[float, ...]
    signs: tuple[int, ...]


def importance_figure(bars: Sequence[Bar], shares: Sequence[tuple[str, float]], *, title: str) -> "Figure":
    """Draw the most important features with 95 % intervals, and the share of each kind of feature.

    Parameters
    ----------
    bars
        The first at the top.
    shares
        (kind of feature, share of the sum of all importances).
    title
        Above the bars.
    """
    with style():
        figure, (left, right) = new_figure(8.6, 1.2 + 0.2 * len(bars), columns=2, width_ratios=(2.4, 1))
        _draw_bars(left, bars)
        left.set_title(title)
        left.set_xlabel("mean |SHAP value| (log-odds)")
        _legend(left, bars)
        places = np.arange(len(shares))
        right.barh(places, [100 * share for _, share in shares], height=0.7, color=BASE)
        for place, (_, share) in zip(places, shares, strict=True):
            right.annotate(
                f"{share:.1%}", (100 * share, place), (3, 0), textcoords="offset points", va="center", fontsize=7
            )
        right.set_yticks(places, [short_label(name, 20) for name, _ in shares])
        right.set_ylim(max(len(shares), 6) - 0.4, -0.6)
        right.set_xlim(0, 125 * max((share for _, share in shares), default=1) or 1)
        right.grid(axis="y", visible=False)
        right.set_title("Share of all importance")
        right.set_xlabel("%")
        return figure


def class_figure(panels: Sequence[tuple[str, Sequence[Bar]]]) -> "Figure":
    """Draw the most important features of each class with 95 % intervals, a panel a class."""
    from matplotlib.figure import Figure

    with style():
        n_columns = min(len(panels), PANELS_A_ROW)
        n_rows = -(-len(panels) // n_columns)
        height = 0.9 + 0.2 * max(len(bars) for _, bars in panels)
        figure = Figure(figsize=(4.1 * n_columns, height * n_rows), layout="constrained")
        places = figure.subplots(n_rows, n_columns, squeeze=False).ravel()
        for place, (name, bars) in zip(places, panels, strict=False):
            _draw_bars(place, bars)
            place.set_title(short_label(name))
            place.set_xlabel("mean |SHAP value| (log-odds)")
        _legend(places[0], [bar for _, bars in panels for bar in bars])
        for place in places[len(panels) :]:
            place.set_visible(False)
        return figure


def _draw_bars(place: "Axes", bars: Sequence[Bar]) -> None:
    rows = np.arange(len(bars))
    colors = {"suspect": SUSPECT_COLOR, "k-mer": KMER_COLOR}
    place.barh(rows, [bar.value for bar in bars], height=0.72, color=[colors.get(bar.mark, ENSEMBLE) for bar in bars])
    known = [number for number, bar in enumerate(bars) if np.isfinite(bar.error)]
    place.errorbar(
        [bars[number].value for number in known],
        known,
        xerr=[1.96 * bars[number].error for number in known],
        fmt="none",
        ecolor=INK,
        elinewidth=0.8,
        capsize=1.6,
    )
    place.set_yticks(rows, [short_label(bar.name) for bar in bars])
    place.set_ylim(len(bars) - 0.4, -0.6)
    place.set_xlim(left=0)
    place.grid(axis="y", visible=False)


def _legend(place: "Axes", bars: Sequence[Bar]) -> None:
    from matplotlib.patches import Patch

    present = {bar.mark for bar in bars}
    labels = (
        ("", "feature", ENSEMBLE),
        ("k-mer", "k-mer count", KMER_COLOR),
        ("suspect", "suspected leak", SUSPECT_COLOR),
    )
    handles = [Patch(color=color, label=label) for mark, label, color in labels if mark in present]
    if present - {""}:
        place.legend(handles=handles, loc="lower right")


def _ramp() -> "Colormap":
    from matplotlib.colors import LinearSegmentedColormap

    ramp = LinearSegmentedColormap.from_list("low to high", [SERIES[0], "#c9ced4", SERIES[1]])
    return ramp.with_extremes(bad=INK)


def swarm_figure(swarms: Sequence[Swarm], *, title: str) -> "Figure":
    """Draw the SHAP values of every row, a line a feature, coloured by the rank of the feature's own value.

    Parameters
    ----------
    swarms
        Features, the first at the top.
    title
        Above.
    """
    from matplotlib.cm import ScalarMappable

    with style():
        figure, (place,) = new_figure(6.4, 1.1 + 0.3 * len(swarms))
        place.axvline(0, color=MUTED, linewidth=0.8, zorder=0)
        ends = [float(np.abs(swarm.values).max()) for swarm in swarms if swarm.values.size]
        width = max(ends, default=1.0) or 1.0
        for row, swarm in enumerate(swarms):
            place.scatter(
                swarm.values,
                row + _spread(swarm.values, width),
                c=_relative_ranks(swarm.columns),
                cmap=_ramp(),
                vmin=0,
                vmax=1,
                s=5,
                linewidths=0,
                plotnonfinite=True,
                rasterized=True,
                zorder=2,
            )
        place.set_yticks(range(len(swarms)), [short_label(swarm.name) for swarm in swarms])
        place.set_ylim(len(swarms) - 0.4, -0.6)
        place.grid(axis="x", visible=False)
        place.set_title(title)
        place.set_xlabel("SHAP value (log-odds): right of zero speaks for the class, left against it")
        bar = figure.colorbar(ScalarMappable(cmap=_ramp()), ax=place, shrink=0.5, aspect=30, ticks=[0, 1], pad=0.02)
        bar.ax.set_yticklabels(["low", "high"])
        bar.set_label("value of the feature, by rank (black: missing)")
        bar.outline.set_visible(False)
        return figure


def _relative_ranks(columns: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return ranks from 0 to 1, NaN where missing; equal values share the mean of theirs."""
    found = np.full(len(columns), np.nan)
    known = ~np.isnan(columns)
    if known.any():
        _, place, counts = np.unique(columns[known], return_inverse=True, return_counts=True)
        middle = np.cumsum(counts) - (counts + 1) / 2
        found[known] = (middle / max(known.sum() - 1, 1))[place] if len(counts) > 1 else 0.5
    return found


def _spread(values: NDArray[np.float32], width: float) -> NDArray[np.float64]:
    """Return offsets that lay dots of nearly equal value above each other, in the order of the rows."""
    bins = np.round(values / width * BINS).astype(np.int64)
    order = np.argsort(bins, kind="stable")
    _, starts, counts = np.unique(bins[order], return_index=True, return_counts=True)
    inside = np.empty(len(values), dtype=np.int64)
    inside[order] = np.arange(len(values)) - np.repeat(starts, counts)
    side = np.where(inside % 2 == 0, 1, -1) * ((inside + 1) // 2)
    most = max(int(np.abs(side).max(initial=0)), 1)
    return side.astype(np.float64) * min(0.06, 0.42 / most)


def agreement_figure(
    instances: Sequence[str],
    correlations: NDArray[np.float64],
    features: Sequence[str],
    importances: NDArray[np.float64],
) -> "Figure":
    """Draw how far instances agree: rank correlations of their importances, and the importances themselves.

    Parameters
    ----------
    instances
        Names.
    correlations
        Shape (n_instances, n_instances).
    features
        Names of the top features.
    importances
        Shape (n_features, n_instances), log-odds.
    """
    with style():
        n_instances = len(instances)
        height = max(1.6 + 0.24 * len(features), 3.2)
        figure, (left, right) = new_figure(2.6 + 3.2 + 0.5 * n_instances, height, columns=2)
        ticks = range(n_instances)
        shown = left.imshow(correlations, cmap="cividis", vmin=0, vmax=1)
        if n_instances <= 10:
            _write_cells(left, correlations, 0.6)
        left.set_xticks(ticks, instances, rotation=90)
        left.set_yticks(ticks, instances)
        left.set_anchor("N")
        left.set_title("Rank correlation of importances")
        figure.colorbar(shown, ax=left, shrink=0.6, label="Spearman")
        top = float(importances.max(initial=0)) or 1.0
        shown = right.imshow(importances, cmap="cividis", vmin=0, vmax=top, aspect="auto")
        right.set_xticks(ticks, instances, rotation=90)
        right.set_yticks(range(len(features)), [short_label(name, 28) for name in features])
        right.set_title("Importance in each instance")
        figure.colorbar(shown, ax=right, label="mean |SHAP value| (log-odds)")
        for place in (left, right):
            place.grid(visible=False)
            place.tick_params(length=0)
            for spine in place.spines.values():
                spine.set_visible(False)
        return figure


def _write_cells(place: "Axes", numbers: NDArray[np.float64], bright: float) -> None:
    for row, column in np.ndindex(numbers.shape):
        number = numbers[row, column]
        text = f"{number:.2f}" if np.isfinite(number) else "-"
        place.text(
            column,
            row,
            text,
            ha="center",
            va="center",
            fontsize=6.5,
            color=INK if np.isfinite(number) and number > bright else "white",
        )


def motif_figure(
    motifs: Sequence[Motif], classes: Sequence[str], families: Sequence[tuple[str, Sequence[Bar]]]
) -> "Figure":
    """Draw the most important k-mers as letters with a bar a class, and their families.

    Parameters
    ----------
    motifs
        k-mers, the first at the top.
    classes
        Names, a column of bars each.
    families
        (title, families of k-mers), a panel each.
    """
    from matplotlib.figure import Figure

    with style():
        n_lines = max(len(motifs), *(len(bars) for _, bars in families)) if families else len(motifs)
        widths = [1.0] * len(classes) + [1.3] * len(families)
        figure = Figure(figsize=(1.2 + 1.75 * sum(widths), 1.3 + 0.21 * n_lines), layout="constrained")
        places = figure.subplots(1, len(widths), squeeze=False, width_ratios=widths)[0]
        top = max((value for motif in motifs for value in motif.values), default=1.0) or 1.0
        for index, place in enumerate(places[: len(classes)]):
            colors = [{1: ENSEMBLE, -1: SUSPECT_COLOR, 0: BASE}[motif.signs[index]] for motif in motifs]
            place.barh(range(len(motifs)), [motif.values[index] for motif in motifs], height=0.72, color=colors)
            place.set_title(short_label(classes[index], 20))
            place.set_xlim(0, 1.05 * top)
            _name_kmers(place, [motif.kmer for motif in motifs] if index == 0 else [], n_lines)
        for place, (title, bars) in zip(places[len(classes) :], families, strict=True):
            place.barh(range(len(bars)), [bar.value for bar in bars], height=0.72, color=KMER_COLOR)
            place.set_title(title)
            place.set_xlim(left=0)
            _name_kmers(place, [bar.name for bar in bars], n_lines)
        for place in places:
            place.grid(axis="y", visible=False)
            place.locator_params(axis="x", nbins=4)
        figure.supxlabel("mean |SHAP value| (log-odds)", fontsize=8)
        _sign_legend(figure)
        return figure


def _name_kmers(place: "Axes", names: Sequence[str], n_lines: int) -> None:
    """Write k-mers left of the bars, each letter in its colour."""
    from matplotlib.offsetbox import AnnotationBbox, HPacker, TextArea

    place.set_ylim(n_lines - 0.4, -0.6)
    # invisible labels of the same width make room for the letters
    place.set_yticks(range(len(names)), names, fontfamily="DejaVu Sans Mono", fontsize=8, color="none")
    place.tick_params(axis="y", length=0)
    for row, name in enumerate(names):
        properties = {"family": "DejaVu Sans Mono", "size": 8}
        letters: list[Artist] = [
            TextArea(letter, textprops=properties | {"color": LETTER_COLORS.get(letter, INK)}) for letter in name
        ]
        box = AnnotationBbox(
            HPacker(children=letters, pad=0, sep=0),
            (0, row),
            xybox=(-4, 0),
            xycoords="data",
            boxcoords="offset points",
            box_alignment=(1, 0.5),
            frameon=False,
            pad=0,
        )
        place.add_artist(box)


def _sign_legend(figure: "Figure") -> None:
    from matplotlib.patches import Patch

    handles = [
        Patch(color=ENSEMBLE, label="more copies speak for the class"),
        Patch(color=SUSPECT_COLOR, label="more copies speak against it"),
        Patch(color=BASE, label="no direction"),
        Patch(color=KMER_COLOR, label="families: all classes"),
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=4)


def mark_of(feature: str, is_suspect: bool) -> str:
    """Return how a feature is drawn."""
    return "suspect" if is_suspect else "k-mer" if kmer_of(feature) else ""
