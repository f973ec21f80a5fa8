"""The figures that lie beside the tables: curves of base model and ensemble, reliability, memory of a gene, as PDF."""

import re
from collections.abc import Sequence
from pathlib import Path

from mi_duck.report.canvas import save
from mi_duck.report.plots import curve_figure, memory_figure, reliability_figure
from mi_duck.report.records import RunRecords, curve_panels, memory_dots, reliability_panels


def file_names(classes: Sequence[str]) -> dict[str, str]:
    """Return for each class a text that is safe in the name of a file and unlike that of any other class.

    Examples
    --------
    >>> file_names(["donor", "5'/ss", "5' ss"])
    {'donor': 'donor', "5'/ss": '5_ss', "5' ss": '5_ss_2'}
    """
    names: dict[str, str] = {}
    for one in classes:
        plain = re.sub(r"[^A-Za-z0-9.-]+", "_", one).strip("_.")[:60] or "class"
        name, count = plain, 1
        while name.lower() in {used.lower() for used in names.values()}:
            count += 1
            name = f"{plain}_{count}"
        names[one] = name
    return names


def write_figures(run: RunRecords) -> list[Path]:
    """Write every figure whose table was made, and return the files.

    ``pr_base_vs_meta.pdf`` and ``roc_base_vs_meta.pdf`` with all classes and one file a class each, in
    ``calibration_analysis/`` one ``reliability_<class>.pdf`` a class, and ``memory_per_gene.pdf``.
    """
    names = file_names(run.classes)
    written = []
    for kind in ("pr", "roc"):
        panels = curve_panels(run, kind)
        if panels:
            written.append(run.root / f"{kind}_base_vs_meta.pdf")
            save(curve_figure(panels, kind=kind), written[-1])
            for name, curves in panels:
                written.append(run.root / f"{kind}_base_vs_meta_{names[name]}.pdf")
                save(curve_figure([(name, curves)], kind=kind), written[-1])
    for name, lines in reliability_panels(run) or []:
        written.append(run.root / "calibration_analysis" / f"reliability_{names[name]}.pdf")
        save(reliability_figure([(name, lines)]), written[-1])
    figure = memory_figure(memory_dots(run), gene_bytes=run.gene_bytes, budget_bytes=run.plan["budget_bytes"])
    written.append(run.root / "memory_per_gene.pdf")
    save(figure, written[-1])
    return written
