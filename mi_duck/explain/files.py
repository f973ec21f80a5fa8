"""The files of an analysis: tables, the sample, figures, and values kept on disk until figures need a few of them."""

import io
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mi_duck.atomic_files import storage_errors, write_csv, write_file
from mi_duck.drawing import LOSSLESS, save, style
from mi_duck.ensemble.shap import Contributions
from mi_duck.explain import figures, tables
from mi_duck.explain.rows import SampledRows
from mi_duck.run.feature_names import kmer_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure


TOP_BARS, TOP_CLASS_BARS, TOP_SWARMS, TOP_MOTIFS = 20, 15, 20, 20
SMALLEST_DIRECTION = 0.1  # weaker correlations are drawn as no direction


class ValueFiles:
    """Keeps the ensemble's values on disk until it is known which few features are drawn."""

    def __init__(self, folder: Path, n_classes: int) -> None:
        self._folder = folder
        self._n_batches = [0] * n_classes

    def keep(self, index: int, values: NDArray[np.float32]) -> None:
        """Write the values of a class and a batch, shape (n_features, n_rows)."""
        with storage_errors(self._folder):
            np.save(self._folder / f"{index}_{self._n_batches[index]}.npy", values)
        self._n_batches[index] += 1

    def read(self, index: int, places: Sequence[int]) -> NDArray[np.float32]:
        """Return the values of some features in a class, shape (n_places, n_rows)."""
        files = [self._folder / f"{index}_{number}.npy" for number in range(self._n_batches[index])]
        return np.concatenate([np.load(file, mmap_mode="r")[list(places)] for file in files], axis=1)


def class_stems(classes: Sequence[str]) -> list[str]:
    """Return how the files of each class begin: its name where that can be one, else ``class_0`` and so on.

    Examples
    --------
    >>> class_stems(["neither", "a/b", "ensemble"])
    ['neither', 'class_1', 'class_2']
    """
    return [
        name if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,80}", name) and name != "ensemble" else f"class_{index}"
        for index, name in enumerate(classes)
    ]


def write_sample(path: Path, rows: SampledRows, classes: Sequence[str]) -> None:
    """Write which rows were explained."""
    write_csv(
        path,
        [
            {"gene_id": gene, "position": "" if position is None else position, "label": classes[label]}
            for gene, position, label in zip(rows.gene_id, rows.position, rows.label, strict=True)
        ],
    )


def write_tables(folder: Path, found: Contributions, names: tables.Names, correlations: NDArray[np.float64]) -> None:
    """Write every table; those of families and of agreement only where there are families and several instances."""
    write_csv(folder / "ensemble_shap_importance.csv", tables.ensemble_table(found, names))
    for index, stem in enumerate(class_stems(names.classes)):
        write_csv(folder / f"{stem}_shap_importance.csv", tables.class_table(found, names, index))
    for member, name in enumerate(names.instances):
        path = folder / "per_instance_results" / f"{name}_shap_importance.csv"
        write_csv(path, tables.instance_table(found, names, member))
    write_csv(folder / "shap_importance_incremental.csv", tables.legacy_table(found, names))
    write_csv(folder / "feature_groups.csv", tables.group_table(found, names, ["kind of feature"]))
    families = tables.group_table(found, names, ["reverse complement", "one mismatch"])
    if families:
        write_csv(folder / "kmer_families.csv", families)
    if len(names.instances) > 1:
        write_csv(folder / "instance_agreement.csv", tables.agreement_table(correlations, names))


def write_figures(
    folder: Path,
    found: Contributions,
    names: tables.Names,
    correlations: NDArray[np.float64],
    values: ValueFiles,
    rows: SampledRows,
) -> None:
    """Draw every figure: each as PNG to look at, all as pages of one PDF to print."""
    order = tables.rank_order(found.overall.value)
    total = float(found.overall.value.sum()) or 1.0
    kinds = [
        (group.name, float(found.overall.value[list(group.members)].sum()) / total)
        for group in names.groups
        if group.kind == "kind of feature" and not group.name.startswith("all ")
    ]
    drawn = {
        "ensemble_shap_analysis": figures.importance_figure(
            [_bar(found, names, place) for place in order[:TOP_BARS]],
            sorted(kinds, key=lambda pair: -pair[1]),
            title=f"What moves the ensemble of {len(names.instances)}",
        ),
        "per_class_shap_importance": figures.class_figure(
            [
                (name, [_bar(found, names, place, index) for place in tables.rank_order(one.value)[:TOP_CLASS_BARS]])
                for index, (name, one) in enumerate(zip(names.classes, found.by_class, strict=True))
            ]
        ),
    }
    for index, stem in enumerate(class_stems(names.classes)):
        top = tables.rank_order(found.by_class[index].value)[:TOP_SWARMS]
        swarms = [
            figures.Swarm(names.features[place], one, rows.matrix[:, place])
            for place, one in zip(top, values.read(index, top), strict=True)
        ]
        title = f"{names.classes[index]}: {found.n_rows:,} rows"
        drawn[f"beeswarm_{stem}"] = figures.swarm_figure(swarms, title=title)
    if len(names.instances) > 1:
        by_instance = np.stack([one.value[order[:TOP_BARS]] for one in found.by_instance], axis=1)
        top_names = [names.features[place] for place in order[:TOP_BARS]]
        drawn["instance_agreement"] = figures.agreement_figure(names.instances, correlations, top_names, by_instance)
    kmers = [place for place in order if kmer_of(names.features[place])][:TOP_MOTIFS]
    if kmers:
        drawn["kmer_motifs"] = figures.motif_figure(
            [_motif(found, names, place) for place in kmers], names.classes, _families(found, names)
        )
    for name, figure in drawn.items():
        save(figure, folder / f"{name}.png")
        figure.set_layout_engine("none")  # the same places, without the time to find them again
    write_file(folder / "shap_figures.pdf", _pages(list(drawn.values())))


def _pages(drawn: "Sequence[Figure]") -> bytes:
    """Return a PDF with a figure on each page; fonts, which take most of the time, are in it once."""
    from matplotlib.backends.backend_pdf import PdfPages

    target = io.BytesIO()
    with style(), warnings.catch_warnings():
        # a name in letters that the font lacks is drawn with boxes; the tables have it in full
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        with PdfPages(target, metadata=dict.fromkeys(LOSSLESS[".pdf"])) as pages:
            for figure in drawn:
                pages.savefig(figure, dpi=150)
    return target.getvalue()


def _bar(found: Contributions, names: tables.Names, place: int, index: int | None = None) -> figures.Bar:
    one = found.overall if index is None else found.by_class[index]
    feature = names.features[place]
    mark = figures.mark_of(feature, feature in (names.suspects or ()))
    return figures.Bar(feature, float(one.value[place]), float(one.error[place]), mark)


def _motif(found: Contributions, names: tables.Names, place: int) -> figures.Motif:
    directions = found.direction[:, place]
    signs = tuple(int(np.sign(one)) if abs(one) >= SMALLEST_DIRECTION else 0 for one in directions)
    return figures.Motif(
        kmer_of(names.features[place]) or "", tuple(float(one.value[place]) for one in found.by_class), signs
    )


def _families(found: Contributions, names: tables.Names) -> list[tuple[str, list[figures.Bar]]]:
    titles = {"reverse complement": "With its reverse complement", "one mismatch": "With one letter changed"}
    panels = []
    for kind, title in titles.items():
        records = tables.group_table(found, names, [kind])[:TOP_MOTIFS]
        if records:
            bars = [figures.Bar(one["group"], one["importance"], float(one["se"] or np.nan)) for one in records]
            panels.append((title, bars))
    return panels
