"""From contributions to the figures of an analysis.

The SHAP values of single rows, which only the beeswarms need, wait on disk until it is known which features are drawn.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mi_duck.atomic_files import storage_errors, write_file
from mi_duck.drawing import BASE, ENSEMBLE, INK, MUTED, SERIES, new_figure, save_as, short_label, style
from mi_duck.ensemble.shap import Contributions
from mi_duck.errors import CheckpointError
from mi_duck.explain.tables import Names, class_stems, group_table, rank_order
from mi_duck.metrics.ranking import Floats32, Floats64, average_ranks
from mi_duck.numbers import decimal
from mi_duck.run.feature_names import kmer_of
from mi_duck.run.plan import distinct_classes

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure


KMER_COLOR = SERIES[2]
SUSPECT_COLOR = SERIES[1]
MISSING_COLOR = SERIES[3]
LETTER_COLORS = {"A": SERIES[2], "C": SERIES[0], "G": SERIES[4], "T": SERIES[1], "N": BASE}
SWARMS = "beeswarm.parquet"
SWARM_ROWS = 2000
PANELS_PER_ROW = 3
BINS = 60  # of a beeswarm: dots of one bin lie above each other
TOP_BARS, TOP_CLASS_BARS, TOP_SWARMS, TOP_MOTIFS = 20, 15, 20, 20
SMALLEST_DIRECTION = 0.1  # weaker correlations are drawn as no direction


class ValueFiles:
    """The ensemble's SHAP values on disk: written batch by batch, read for the few features that are drawn."""

    def __init__(self, folder: Path, n_classes: int) -> None:
        self._folder = folder
        self._n_batches = [0] * n_classes

    def keep(self, index: int, values: Floats32) -> None:
        """Write the values of a class and a batch, shape (n_features, n_rows)."""
        with storage_errors(self._folder):
            np.save(self._folder / f"{index}_{self._n_batches[index]}.npy", values)
        self._n_batches[index] += 1

    def read(self, index: int, features: Sequence[int]) -> Floats32:
        """Return the values of some features in a class, shape (len(features), n_rows)."""
        files = [self._folder / f"{index}_{number}.npy" for number in range(self._n_batches[index])]
        return np.concatenate([np.load(file, mmap_mode="r")[list(features)] for file in files], axis=1)


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
    values: Floats32
    column: Floats32


@dataclass(frozen=True, slots=True)
class Motif:
    """A k-mer: importance in each class, and the sign of its effect there: 1 raises, -1 lowers, 0 neither."""

    kmer: str
    values: tuple[float, ...]
    signs: tuple[int, ...]


# ---- which figures ----------------------------------------------------------------------------------------------------


def write_figures(
    folder: Path,
    found: Contributions,
    names: Names,
    correlations: Floats64,
    values: ValueFiles,
    matrix: Floats32,
    figure_format: str | None = None,
) -> None:
    """Draw every figure, in the format that is asked for, else as PNG.

    What the beeswarms show is written to ``beeswarm.parquet`` too. Of two classes the second alone is drawn.
    """
    order = rank_order(found.overall.value)
    top = order[:TOP_BARS]
    drawn = {
        "ensemble_shap_analysis": importance_figure(
            [_bar(found, names, feature) for feature in top],
            _shares(found, names),
            title="What moves the model"
            if len(names.instances) == 1
            else f"What moves the ensemble of {len(names.instances)}",
        ),
        "per_class_shap_importance": class_figure(
            [
                (name, [_bar(found, names, feature, index) for feature in rank_order(one.value)[:TOP_CLASS_BARS]])
                for index, (name, one) in enumerate(zip(names.classes, found.by_class, strict=True))
                if name in distinct_classes(names.classes)
            ]
        ),
    }
    swarms_of = {}
    for index, stem in enumerate(class_stems(names.classes)):
        if names.classes[index] not in distinct_classes(names.classes):
            continue
        features = rank_order(found.by_class[index].value)[:TOP_SWARMS]
        swarms = [
            Swarm(names.features[feature], one, matrix[:, feature])
            for feature, one in zip(features, values.read(index, features), strict=True)
        ]
        swarms_of[names.classes[index]] = swarms
        title = f"{names.classes[index]}: {found.n_rows:,} rows"
        drawn[f"beeswarm_{stem}"] = swarm_figure(swarms, title=title)
    if len(names.instances) > 1:
        by_instance = np.stack([one.value[top] for one in found.by_instance], axis=1)
        top_names = [names.features[feature] for feature in top]
        drawn["instance_agreement"] = agreement_figure(names.instances, correlations, top_names, by_instance)
    motifs = [_motif(found, feature, kmer) for feature in order if (kmer := kmer_of(names.features[feature]))]
    if motifs:
        drawn["kmer_motifs"] = motif_figure(motifs[:TOP_MOTIFS], names.classes, _families(found, names))
    write_swarms(folder / SWARMS, swarms_of)
    for name, figure in drawn.items():
        save_as(figure, folder / name, (figure_format or "png",))


def write_swarms(path: Path, swarms: Mapping[str, Sequence[Swarm]]) -> None:
    """Write the rows of beeswarms by class, at most `SWARM_ROWS` of each, evenly chosen: class, feature, shap_value, value."""
    parts = []
    for name, several in swarms.items():
        for swarm in several:
            step = -(-len(swarm.values) // SWARM_ROWS)
            columns: dict[str, Any] = {"shap_value": swarm.values[::step], "value": swarm.column[::step]}
            texts = {"class": name, "feature": swarm.name}
            length = len(columns["shap_value"])
            parts.append(pa.table({title: pa.array([text] * length) for title, text in texts.items()} | columns))
    sink = io.BytesIO()
    pq.write_table(pa.concat_tables(parts), sink, compression="zstd")
    write_file(path, sink.getvalue())


def read_swarms(folder: Path, classes: Sequence[str]) -> dict[str, list[Swarm]]:
    """Return the beeswarms of some classes, the most important feature first; none where they were not drawn.

    Raises
    ------
    CheckpointError
        The file is damaged.
    """
    path = folder / SWARMS
    if not path.is_file():
        return {}
    try:
        table = pq.read_table(path, columns=["class", "feature", "shap_value", "value"])
    except (OSError, pa.ArrowException) as error:
        raise CheckpointError(f"cannot read {path}: {error}; 'mi-duck explain' makes it again") from error
    found: dict[str, list[Swarm]] = {}
    for name in classes:
        of_class = table.filter(pc.equal(table["class"], name))
        for feature in of_class["feature"].unique().to_pylist():
            rows = of_class.filter(pc.equal(of_class["feature"], feature))
            values, column = (rows[title].to_numpy().astype(np.float32) for title in ("shap_value", "value"))
            found.setdefault(name, []).append(Swarm(feature, values, column))
    return found


def _shares(found: Contributions, names: Names) -> list[tuple[str, float]]:
    """Return the kinds of features with their share of the sum of all importances, the largest first."""
    total = float(found.overall.value.sum()) or 1.0
    shares = [
        (group.name, float(found.overall.value[list(group.members)].sum()) / total)
        for group in names.groups
        if group.kind == "kind of feature" and not group.name.startswith("all ")
    ]
    return sorted(shares, key=lambda pair: -pair[1])


def _bar(found: Contributions, names: Names, feature: int, index: int | None = None) -> Bar:
    one = found.overall if index is None else found.by_class[index]
    name = names.features[feature]
    mark = "suspect" if name in (names.suspects or ()) else "k-mer" if kmer_of(name) else ""
    return Bar(name, float(one.value[feature]), float(one.error[feature]), mark)


def _motif(found: Contributions, feature: int, kmer: str) -> Motif:
    signs = tuple(int(np.sign(one)) if abs(one) >= SMALLEST_DIRECTION else 0 for one in found.direction[:, feature])
    return Motif(kmer, tuple(float(one.value[feature]) for one in found.by_class), signs)


def _families(found: Contributions, names: Names) -> list[tuple[str, list[Bar]]]:
    titles = {"reverse complement": "With its reverse complement", "one mismatch": "With one letter changed"}
    panels = []
    for kind, title in titles.items():
        records = group_table(found, names, [kind])[:TOP_MOTIFS]
        bars = [Bar(one["group"], one["importance"], float(one["se"] or np.nan)) for one in records]
        if bars:
            panels.append((title, bars))
    return panels


# ---- drawing ----------------------------------------------------------------------------------------------------------


def importance_figure(bars: Sequence[Bar], shares: Sequence[tuple[str, float]], *, title: str) -> "Figure":
    """Draw the most important features with 95 % intervals, and the share that each kind of feature has of all importance."""
    with style():
        figure, (left, right) = new_figure(8.6, 1.2 + 0.2 * len(bars), columns=2, width_ratios=(2.4, 1))
        _draw_bars(left, bars)
        left.set_title(title)
        left.set_xlabel("mean |SHAP value| (log-odds)")
        _legend(left, bars)
        bars_drawn = right.barh(range(len(shares)), [100 * share for _, share in shares], height=0.7, color=BASE)
        right.bar_label(bars_drawn, [f"{share:.1%}" for _, share in shares], padding=3, fontsize=7)
        right.set_yticks(range(len(shares)), [short_label(name, 20) for name, _ in shares])
        right.set_ylim(max(len(shares), 6) - 0.4, -0.6)
        right.set_xlim(0, 125 * max((share for _, share in shares), default=1) or 1)
        right.grid(axis="y", visible=False)
        right.set_title("Share of all importance")
        right.set_xlabel("%")
        return figure


def class_figure(panels: Sequence[tuple[str, Sequence[Bar]]]) -> "Figure":
    """Draw the most important features of each class with 95 % intervals, one panel per class."""
    from matplotlib.figure import Figure

    with style():
        n_columns = min(len(panels), PANELS_PER_ROW)
        n_rows = -(-len(panels) // n_columns)
        height = 0.9 + 0.2 * max(len(bars) for _, bars in panels)
        figure = Figure(figsize=(4.1 * n_columns, height * n_rows), layout="constrained")
        all_axes = figure.subplots(n_rows, n_columns, squeeze=False).ravel()
        for axes, (name, bars) in zip(all_axes, panels, strict=False):
            _draw_bars(axes, bars)
            axes.set_title(short_label(name))
            axes.set_xlabel("mean |SHAP value| (log-odds)")
        _legend(all_axes[0], [bar for _, bars in panels for bar in bars])
        for axes in all_axes[len(panels) :]:
            axes.set_visible(False)
        return figure


def _draw_bars(axes: "Axes", bars: Sequence[Bar]) -> None:
    rows = np.arange(len(bars))
    colors = {"suspect": SUSPECT_COLOR, "k-mer": KMER_COLOR}
    axes.barh(rows, [bar.value for bar in bars], height=0.72, color=[colors.get(bar.mark, ENSEMBLE) for bar in bars])
    known = [number for number, bar in enumerate(bars) if np.isfinite(bar.error)]
    axes.errorbar(
        [bars[number].value for number in known],
        known,
        xerr=[1.96 * bars[number].error for number in known],
        fmt="none",
        ecolor=INK,
        elinewidth=0.8,
        capsize=1.6,
    )
    axes.set_yticks(rows, [short_label(bar.name) for bar in bars])
    axes.set_ylim(len(bars) - 0.4, -0.6)
    axes.set_xlim(left=0)
    axes.grid(axis="y", visible=False)


def _legend(axes: "Axes", bars: Sequence[Bar]) -> None:
    from matplotlib.patches import Patch

    present = {bar.mark for bar in bars}
    labels = (
        ("", "feature", ENSEMBLE),
        ("k-mer", "k-mer count", KMER_COLOR),
        ("suspect", "suspected leak", SUSPECT_COLOR),
    )
    handles = [Patch(color=color, label=label) for mark, label, color in labels if mark in present]
    if present - {""}:
        axes.legend(handles=handles, loc="lower right")


def _ramp() -> "Colormap":
    from matplotlib.colors import LinearSegmentedColormap

    ramp = LinearSegmentedColormap.from_list("low to high", [SERIES[0], "#c9ced4", SERIES[1]])
    return ramp.with_extremes(bad=MISSING_COLOR)


def swarm_figure(swarms: Sequence[Swarm], *, title: str, width: float = 6.4) -> "Figure":
    """Draw the SHAP values of every row, one line per feature, coloured by the rank of its own value; ``width`` in inches."""
    from matplotlib.cm import ScalarMappable

    with style():
        figure, (axes,) = new_figure(width, 1.1 + 0.3 * len(swarms))
        axes.axvline(0, color=MUTED, linewidth=0.8, zorder=0)
        ends = [float(np.abs(swarm.values).max()) for swarm in swarms if swarm.values.size]
        widest = max(ends, default=1.0) or 1.0
        axes.scatter(
            np.concatenate([swarm.values for swarm in swarms]),
            np.concatenate([row + _spread(swarm.values, widest) for row, swarm in enumerate(swarms)]),
            c=np.concatenate([_relative_ranks(swarm.column) for swarm in swarms]),
            cmap=_ramp(),
            vmin=0,
            vmax=1,
            s=5,
            linewidths=0,
            plotnonfinite=True,
            rasterized=True,
            zorder=2,
        )
        axes.set_yticks(range(len(swarms)), [short_label(swarm.name) for swarm in swarms])
        axes.set_ylim(len(swarms) - 0.4, -0.6)
        axes.grid(axis="x", visible=False)
        axes.set_title(title)
        axes.set_xlabel("SHAP value (log-odds): right of zero speaks for the class")
        bar = figure.colorbar(ScalarMappable(cmap=_ramp()), ax=axes, shrink=0.5, aspect=30, ticks=[0, 1], pad=0.02)
        bar.ax.set_yticklabels(["low", "high"])
        bar.set_label("value of the feature, by rank (pink: missing)")
        bar.outline.set_visible(False)
        return figure


def _relative_ranks(column: Floats32) -> Floats64:
    """Return ranks from 0 to 1, NaN where missing; equal values share their mean rank."""
    ranks = average_ranks(column)
    n_known = int((~np.isnan(column)).sum())
    return (ranks - 1) / max(n_known - 1, 1)


def _spread(values: Floats32, width: float) -> Floats64:
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
    instances: Sequence[str], correlations: Floats64, features: Sequence[str], importances: Floats64
) -> "Figure":
    """Draw how far instances agree: rank correlations of their importances, and the importances of the top features.

    Importances are in log-odds, shape (n_features, n_instances).
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
        for axes in (left, right):
            axes.grid(visible=False)
            axes.tick_params(length=0)
            for spine in axes.spines.values():
                spine.set_visible(False)
        return figure


def _write_cells(axes: "Axes", numbers: Floats64, bright: float) -> None:
    for row, column in np.ndindex(numbers.shape):
        number = numbers[row, column]
        color = INK if number > bright else "white"
        axes.text(column, row, decimal(float(number), 2), ha="center", va="center", fontsize=6.5, color=color)


def motif_figure(
    motifs: Sequence[Motif], classes: Sequence[str], families: Sequence[tuple[str, Sequence[Bar]]]
) -> "Figure":
    """Draw the most important k-mers as letters with a bar per class, and a panel for each kind of family."""
    from matplotlib.figure import Figure

    with style():
        n_lines = max(len(motifs), *(len(bars) for _, bars in families)) if families else len(motifs)
        widths = [1.0] * len(classes) + [1.3] * len(families)
        figure = Figure(figsize=(1.2 + 1.75 * sum(widths), 1.3 + 0.21 * n_lines), layout="constrained")
        all_axes = figure.subplots(1, len(widths), squeeze=False, width_ratios=widths)[0]
        top = max((value for motif in motifs for value in motif.values), default=1.0) or 1.0
        for index, axes in enumerate(all_axes[: len(classes)]):
            colors = [{1: ENSEMBLE, -1: SUSPECT_COLOR, 0: BASE}[motif.signs[index]] for motif in motifs]
            axes.barh(range(len(motifs)), [motif.values[index] for motif in motifs], height=0.72, color=colors)
            axes.set_title(short_label(classes[index], 20))
            axes.set_xlim(0, 1.05 * top)
            _name_kmers(axes, [motif.kmer for motif in motifs] if index == 0 else [], n_lines)
        for axes, (title, bars) in zip(all_axes[len(classes) :], families, strict=True):
            axes.barh(range(len(bars)), [bar.value for bar in bars], height=0.72, color=KMER_COLOR)
            axes.set_title(title)
            axes.set_xlim(left=0)
            _name_kmers(axes, [bar.name for bar in bars], n_lines)
        for axes in all_axes:
            axes.grid(axis="y", visible=False)
            axes.locator_params(axis="x", nbins=4)
        figure.supxlabel("mean |SHAP value| (log-odds)", fontsize=8)
        _sign_legend(figure)
        return figure


def _name_kmers(axes: "Axes", names: Sequence[str], n_lines: int) -> None:
    """Write k-mers left of the bars, each letter in its colour."""
    from matplotlib.offsetbox import AnnotationBbox, HPacker, TextArea

    axes.set_ylim(n_lines - 0.4, -0.6)
    # invisible labels of the same width make room for the letters
    axes.set_yticks(range(len(names)), names, fontfamily="DejaVu Sans Mono", fontsize=8, color="none")
    axes.tick_params(axis="y", length=0)
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
        axes.add_artist(box)


def _sign_legend(figure: "Figure") -> None:
    from matplotlib.patches import Patch

    handles = [
        Patch(color=ENSEMBLE, label="more copies speak for the class"),
        Patch(color=SUSPECT_COLOR, label="more copies speak against it"),
        Patch(color=BASE, label="no direction"),
        Patch(color=KMER_COLOR, label="families: all classes"),
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=4)
