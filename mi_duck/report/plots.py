"""Records to figures: curves, reliability, learning curves, bars with intervals, leaks, memory, windows of genes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from mi_duck.drawing import (
    BASE,
    ENSEMBLE,
    GRID,
    INK,
    LEGEND_LINE,
    MUTED,
    SERIES,
    legend_above,
    new_figure,
    new_panels,
    short_label,
    style,
)
from mi_duck.numbers import MIB, decimal
from mi_duck.wording import Noun

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLORS = {"base": BASE, "ensemble": ENSEMBLE, "member": SERIES[5]}
DASHES = {"base": (0, (4, 1.6)), "ensemble": "-", "member": "-"}
MOST_LEAKS = 25  # features
LABELS = {"base": "base scores", "ensemble": "ensemble", "member": "member"}


@dataclass(frozen=True, slots=True)
class Curve:
    """One ROC or precision-recall curve.

    Parameters
    ----------
    scope
        ``base``, ``ensemble`` or ``member``: decides colour, line style and label.
    x, y
        False positive rate and recall (ROC), or recall and precision.
    area
        As text for the legend, such as ``.886 (.883-.888)``; empty for none.
    """

    scope: str
    x: Sequence[float]
    y: Sequence[float]
    area: str = ""


@dataclass(frozen=True, slots=True)
class Reliability:
    """Predicted against observed, one value per bin; ``low`` and ``high`` are the 95 % interval of the observed fraction."""

    scope: str
    n_rows: Sequence[float]
    mean_probability: Sequence[float]
    observed_fraction: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]


@dataclass(frozen=True, slots=True)
class LearningCurve:
    """Log loss by round of one fold.

    Parameters
    ----------
    training, stopping
        On the training rows, and on the rows that early stopping watches: one value per round, in nats per row.
    best_round
        Rounds kept, from 1.
    """

    fold: int
    training: Sequence[float]
    stopping: Sequence[float]
    best_round: int


@dataclass(frozen=True, slots=True)
class Bar:
    """One value with its interval, and the scope that decides its colour; ``low`` and ``high`` may be None."""

    label: str
    value: float
    low: float | None
    high: float | None
    scope: str = "ensemble"


@dataclass(frozen=True, slots=True)
class MemoryDot:
    """Rows, measured and predicted peak memory in bytes of one training process; ``predicted`` may be None."""

    n_rows: int
    measured: float
    predicted: float | None
    is_probe: bool


def curve_figure(panels: Sequence[tuple[str, Sequence[Curve]]], *, kind: str) -> "Figure":
    """Draw ROC (``kind`` is ``roc``) or precision-recall curves (``pr``), one panel with a title per class."""
    area = "AUC" if kind == "roc" else "AP"
    with style():
        figure, panes = new_panels(len(panels), legend_lines=max(len(curves) for _, curves in panels))
        for axes, (title, curves) in zip(panes, panels, strict=True):
            if kind == "roc":
                axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.8, linestyle=(0, (1, 2)))
            drawn = sorted(curves, key=lambda curve: curve.scope == "ensemble")  # the ensemble is drawn last, on top
            lines = [
                axes.plot(curve.x, curve.y, color=COLORS[curve.scope], linestyle=DASHES[curve.scope])[0]
                for curve in drawn
            ]
            labels = [LABELS[one.scope] + (f": {area} {one.area}" if one.area else "") for one in drawn]
            names = ("false positive rate", "recall") if kind == "roc" else ("recall", "precision")
            _unit_axes(axes, *names)
            legend_above(axes, title, lines, labels)
    return figure


def reliability_figure(panels: Sequence[tuple[str, Sequence[Reliability]]]) -> "Figure":
    """Draw observed fraction against predicted probability with intervals, one panel per class."""
    with style():
        figure, panes = new_panels(len(panels), legend_lines=1)
        for axes, (title, lines) in zip(panes, panels, strict=True):
            axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.8, linestyle=(0, (1, 2)))
            handles = []
            for line in lines:
                x, y, color = line.mean_probability, line.observed_fraction, COLORS[line.scope]
                marker, dashes = "o" if line.scope == "ensemble" else "s", DASHES[line.scope]
                axes.vlines(x, line.low, line.high, color=color, linewidth=1)
                handles += axes.plot(x, y, color=color, linestyle=dashes, linewidth=1, marker=marker, markersize=3.2)
            _unit_axes(axes, "predicted probability", "observed fraction")
            _count_rows(axes, lines[-1])
            legend_above(axes, title, handles, [LABELS[line.scope] for line in lines], columns=2)
    return figure


def _count_rows(axes: "Axes", line: Reliability) -> None:
    """Write the rows of each bin below the data, upright; those of the bins that lie too close at 0 and 1 together."""
    bins = list(zip(line.mean_probability, line.n_rows, strict=True))
    counts = [(0.02, sum(n for x, n in bins if x < 0.1)), *((x, n) for x, n in bins if 0.1 <= x < 0.95)]
    counts.append((0.98, sum(n for x, n in bins if x >= 0.95)))
    axes.set_ylim(-0.24, 1.02)
    axes.text(1.02, -0.12, "rows", rotation=90, ha="left", va="center", fontsize=5.5, color=MUTED)
    for x, n in counts:
        if n:
            axes.text(x, -0.22, f"{n:,.0f}", rotation=90, ha="center", va="bottom", fontsize=5.5, color=MUTED)


def learning_figure(panels: Sequence[tuple[str, Sequence[LearningCurve]]], noun: Noun) -> "Figure":
    """Draw log loss by round, one panel per class and one colour per fold: stopping genes solid, training genes dotted.

    ``noun`` is what groups are called, here and in the other figures that name them.
    """
    from matplotlib.lines import Line2D

    with style():
        figure, panes = new_panels(len(panels), legend_lines=2)
        for axes, (title, curves) in zip(panes, panels, strict=True):
            for curve in curves:
                color = SERIES[curve.fold % len(SERIES)]
                rounds = range(1, len(curve.training) + 1)
                axes.plot(rounds, curve.training, color=color, linewidth=1, linestyle=(0, (1, 1.4)))
                axes.plot(rounds, curve.stopping, color=color, linewidth=1.4)
                if curve.best_round <= len(curve.stopping):
                    best = curve.stopping[curve.best_round - 1]
                    axes.plot([curve.best_round], [best], color=color, marker="o", markersize=4.5, clip_on=False)
            axes.set(xlabel="boosting round", ylabel="log loss (nats per row)")
            axes.set_xlim(left=0)
            axes.set_ylim(bottom=0)
            handles = [
                Line2D([], [], color=INK, linewidth=1.4),
                Line2D([], [], color=INK, linewidth=1, linestyle=(0, (1, 1.4))),
                Line2D([], [], color=INK, linewidth=0, marker="o", markersize=4.5),
            ]
            labels = [f"stopping {noun.many}", f"training {noun.many}", "best round"]
            legend_above(axes, title, handles, labels, columns=2)
    return figure


def bar_figure(bars: Sequence[Bar], *, title: str, axis: str) -> "Figure":
    """Draw horizontal bars from zero with intervals, the first at the top; ``axis`` says what they measure, with its unit."""
    with style():
        figure, (axes,) = new_figure(4.6, 0.9 + 0.21 * len(bars))
        heights = range(len(bars))
        axes.barh(heights, [bar.value for bar in bars], height=0.66, color=[COLORS[bar.scope] for bar in bars])
        for height, bar in zip(heights, bars, strict=True):
            if bar.low is not None and bar.high is not None:
                axes.hlines([height], bar.low, bar.high, color=INK, linewidth=1)
        _names(axes, [bar.label for bar in bars])
        axes.grid(visible=False, axis="y")
        axes.set(title=short_label(title, 64), xlabel=axis)
    return figure


def time_figure(steps: Sequence[Mapping[str, Any]]) -> "Figure":
    """Draw wall and CPU seconds of steps, from the lines of `mi_duck.run.stage_times.step_times`, as horizontal bars."""
    kinds = (("passed", "wall_seconds", -0.2, ENSEMBLE), ("of all cores", "cpu_seconds", 0.2, SERIES[1]))
    with style():
        figure, (axes,) = new_figure(4.6, 1.0 + 0.28 * len(steps))
        for label, name, shift, color in kinds:
            heights = [height + shift for height in range(len(steps))]
            axes.barh(heights, [step[name] for step in steps], height=0.36, color=color, label=label)
        _names(axes, [step["step"] for step in steps])
        axes.grid(visible=False, axis="y")
        axes.set(title="time of each step", xlabel="seconds")
        axes.legend(loc="best")
    return figure


def interval_figure(panels: Sequence[tuple[str, Sequence[Bar]]]) -> "Figure":
    """Draw values as dots with intervals, one panel per metric; the models have the same rows in all panels."""
    with style():
        rows = max(len(bars) for _, bars in panels)
        figure, panes = new_figure(1.0 + 1.75 * len(panels), 0.75 + 0.21 * rows, columns=len(panels), sharey=True)
        for axes, (title, bars) in zip(panes, panels, strict=True):
            for height, bar in enumerate(bars):
                color = COLORS[bar.scope]
                if bar.low is not None and bar.high is not None:
                    axes.hlines([height], bar.low, bar.high, color=color, linewidth=1.6)
                axes.plot(
                    [bar.value], [height], color=color, marker="s" if bar.scope == "base" else "o", markersize=4.5
                )
            _names(axes, [bar.label for bar in bars])
            axes.locator_params(axis="x", nbins=4)
            axes.margins(x=0.12)
            axes.set_ylim(rows - 0.4, -0.6)
            axes.set_title(short_label(title))
    return figure


def leakage_figure(lines: Sequence[Mapping[str, Any]], base_scores: Sequence[str]) -> "Figure":
    """Return how well single features separate the classes, from the lines of ``leakage.csv``, whose numbers may be text."""
    best = _best_lines(lines)
    suspects = {row["feature"] for row in lines if row["verdict"] == "suspect"}
    order = sorted(best, key=lambda name: (name not in suspects, -best[name]["auc"], name))
    shown = sorted(order[:MOST_LEAKS], key=lambda name: (best[name]["auc"], name))
    with style():
        figure, (axes,) = new_figure(6.4, 1.1 + 0.19 * max(len(shown), 1))
        kinds = dict.fromkeys(shown, "feature") | dict.fromkeys(base_scores, "base score")
        kinds |= dict.fromkeys(suspects, "suspect")
        for kind, marker, color in (("feature", "o", ENSEMBLE), ("base score", "D", BASE), ("suspect", "X", SERIES[1])):
            heights = [height for height, name in enumerate(shown) if kinds[name] == kind]
            drawn = [best[shown[height]] for height in heights]
            areas = [line["auc"] for line in drawn]
            error = [[line["auc"] - line["low"] for line in drawn], [line["high"] - line["auc"] for line in drawn]]
            axes.errorbar(areas, heights, xerr=error, fmt=marker, color=color, markersize=4.5, elinewidth=1, label=kind)
        axes.axvline(0.5, color=MUTED, linewidth=0.8)
        axes.set_yticks(range(len(shown)), [short_label(name) for name in shown])
        beside = ("axes fraction", "data")
        for height, name in enumerate(shown):
            remark = _remark(best[name])
            axes.annotate(remark, (1.01, height), xycoords=beside, va="center", color=MUTED, fontsize=6.5)
        axes.set_xlim(0.48, 1.01)
        axes.set_ylim(-0.7, len(shown) - 0.3)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("area under the ROC curve of the column alone, 95 % interval over fold groups")
        title = "How well single columns separate the classes" + ("" if suspects else "; none is suspect")
        axes.set_title(title, pad=6 + 72 * LEGEND_LINE)
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, borderaxespad=0.2)
    return figure


def _best_lines(lines: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the line to draw of each feature: of a suspect the first that flags it, else the one of the largest area."""
    best: dict[str, dict[str, Any]] = {}
    for line in lines:
        if line["auc"] == "":  # a side has no row in which the feature is present
            continue
        area = float(line["auc"])
        low, high = (area if line[name] == "" else float(line[name]) for name in ("low", "high"))
        row = dict(line) | {"auc": area, "low": low, "high": high}
        known = best.setdefault(row["feature"], row)
        if known["verdict"] != "suspect" and (row["verdict"] == "suspect" or row["auc"] > known["auc"]):
            best[row["feature"]] = row
    return best


def _remark(row: Mapping[str, Any]) -> str:
    """Return the comparison, and for a suspect the kind of its reason."""
    kind, *more = str(row["reason"]).split(" in ")
    return f"{row['comparison']}: {short_label(kind)}" if more else str(row["comparison"])


def memory_figure(
    dots: Sequence[MemoryDot], *, gene_bytes: Sequence[float], noun: Noun, budget_bytes: float | None = None
) -> "Figure":
    """Draw measured and predicted peak memory by rows, and a histogram of the memory per gene.

    Parameters
    ----------
    dots
        Training processes: instances of the run, and probes.
    gene_bytes
        Predicted bytes of every gene.
    budget_bytes
        Limit of one instance; drawn where it is less than twice the highest peak.
    """
    from matplotlib.lines import Line2D

    thousand = 1000
    with style():
        figure, (left, right) = new_panels(2, width=3.2, legend_lines=2)
        handles, labels = [], []
        line = sorted((dot.n_rows / thousand, dot.predicted / MIB) for dot in dots if dot.predicted is not None)
        if line:
            left.plot(*zip(*line, strict=True), color=SERIES[1], linewidth=1, marker="_", markersize=14)
            handles.append(Line2D([], [], color=SERIES[1], linewidth=1, marker="_", markersize=9))
            labels.append("predicted")
        kinds = ((True, "measured, probe", "D", "none"), (False, "measured, instance", "o", ENSEMBLE))
        for is_probe, label, marker, face in kinds:
            some = [dot for dot in dots if dot.is_probe == is_probe]
            if some:
                x, y = [dot.n_rows / thousand for dot in some], [dot.measured / MIB for dot in some]
                handles += left.plot(
                    x, y, linestyle="none", marker=marker, markersize=4.5, color=ENSEMBLE, markerfacecolor=face
                )
                labels.append(label)
        highest = max([dot.measured for dot in dots] + [dot.predicted or 0 for dot in dots], default=0)
        if budget_bytes is not None and budget_bytes < 2 * highest:
            handles.append(left.axhline(budget_bytes / MIB, color=INK, linewidth=1, linestyle=(0, (4, 1.6))))
            labels.append("budget")
        left.set(xlabel="thousand training rows", ylabel="peak memory (MiB)")
        left.set_xlim(left=0, right=1.08 * max([dot.n_rows / thousand for dot in dots], default=1))
        left.set_ylim(bottom=0, top=1.1 * max(highest / MIB, 1))
        legend_above(left, "peak memory of training", handles, labels, columns=2, lines=2)
        _memory_per_gene(right, gene_bytes, noun)
    return figure


def _memory_per_gene(axes: "Axes", gene_bytes: Sequence[float], noun: Noun) -> None:
    sizes = [size / MIB for size in gene_bytes]
    axes.hist(sizes, bins=40, color=ENSEMBLE)
    middle = sorted(sizes)[len(sizes) // 2] if sizes else 0.0
    line = axes.axvline(middle, color=INK, linewidth=1, linestyle=(0, (4, 1.6)))
    axes.set_yscale("symlog", linthresh=1)
    axes.yaxis.set_major_formatter(lambda value, _: decimal(value, 0))
    axes.set_ylim(bottom=0)
    axes.set(xlabel=f"MiB per {noun.one}", ylabel=f"{noun.many} (logarithmic)")
    legend_above(axes, f"memory per {noun.one}", [line], [f"median {middle:.2g} MiB"], lines=2)


def window_figure(windows: Mapping[str, tuple[int, int]], *, n_genes: int, noun: Noun) -> "Figure":
    """Draw which genes each instance trains on, one bar each; genes that two neighbours share are shaded.

    ``windows`` has the half-open range of gene ranks of each instance.
    """
    with style():
        figure, (axes,) = new_figure(6.4, 0.8 + 0.24 * len(windows))
        for (_, stop), (first, _) in pairwise(windows.values()):
            if first < stop:
                axes.axvspan(first, stop, color=GRID, linewidth=0)
        widths = [stop - first for first, stop in windows.values()]
        left = [first for first, _ in windows.values()]
        axes.barh(range(len(windows)), widths, left=left, height=0.62, color=ENSEMBLE)
        _names(axes, list(windows))
        axes.grid(visible=False, axis="y")
        axes.set_xlim(0, n_genes)
        axes.xaxis.set_major_formatter(lambda value, _: decimal(value, 0))
        axes.set(xlabel=f"rank (the seeded order of {noun.many}); shaded: {noun.many} that two instances share")
    return figure


def _names(axes: "Axes", labels: Sequence[str]) -> None:
    """Label the bars of a horizontal chart, the first at the top."""
    axes.set_yticks(range(len(labels)), [short_label(label) for label in labels])
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)


def _unit_axes(axes: "Axes", x: str, y: str) -> None:
    """Label axes from 0 to 1."""
    axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel=x, ylabel=y)
    for set_ticks in (axes.set_xticks, axes.set_yticks):
        set_ticks([0, 0.25, 0.5, 0.75, 1], ["0", ".25", ".5", ".75", "1"])
