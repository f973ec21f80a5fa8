"""What both models say in the neighbourhood of true sites: every row of the gene within 100 nt of some sampled sites."""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

WITHIN = 100  # nt
DISTANCES = (0, 1, 2, 5, 10, 25, 50, 100)  # upper ends of the ranges of the summary, nt


def neighbours(
    base: NDArray[np.float32] | None,
    meta: NDArray[np.float32],
    labels: NDArray[np.integer[Any]],
    genes: NDArray[np.integer[Any]],
    positions: NDArray[np.int64],
    classes: Sequence[str],
    *,
    gene_ids: Sequence[str],
    n_sites: int,
    seed: int,
) -> list[dict[str, Any]]:
    """Return a line a sampled site and row near it.

    Parameters
    ----------
    base, meta
        Probabilities, shape (n_rows, n_classes); base may be None.
    labels, genes, positions
        Class, gene (from 0, rows of a gene together) and place (nt) of each row, shape (n_rows,).
    classes, gene_ids
        Names; the first class is the background.
    n_sites
        True sites to sample.
    seed
        The sites of lowest md5 of seed, gene, position and class are taken, so a larger sample holds a smaller one.
    """
    sites = np.flatnonzero(labels > 0)
    keys = [
        hashlib.md5(f"{seed}:{gene_ids[genes[row]]}:{positions[row]}:{classes[labels[row]]}".encode()).digest()
        for row in sites
    ]
    sampled = sorted(sites[place] for place in sorted(range(len(sites)), key=lambda place: keys[place])[:n_sites])
    lines = []
    for number, site in enumerate(sampled):
        first, stop = np.searchsorted(genes, [genes[site], genes[site] + 1])
        distance = positions[first:stop] - positions[site]
        for row in first + np.flatnonzero(np.abs(distance) <= WITHIN):
            line = {
                "site": number,
                "gene_id": gene_ids[genes[site]],
                "site_class": classes[labels[site]],
                "site_position": int(positions[site]),
                "position": int(positions[row]),
                "distance": int(positions[row] - positions[site]),
                "label": classes[labels[row]],
            }
            for which, chances in (("base", base), ("meta", meta)):
                if chances is not None:
                    line |= {f"{which}_{name}": float(chances[row, index]) for index, name in enumerate(classes)}
            lines.append(line)
    return lines


def by_distance(lines: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return for each class of site and range of distances: rows, true ones, and what both models give the site's class.

    ``mean_<model>`` is the mean probability of the site's class, ``called_<model>`` the share of rows where it is at least .5.
    """
    found = []
    models = [which for which in ("base", "meta") if lines and f"{which}_{lines[0]['site_class']}" in lines[0]]
    for name in sorted({str(line["site_class"]) for line in lines}):
        for low, high in zip((-1, *DISTANCES[:-1]), DISTANCES, strict=True):
            part = [line for line in lines if line["site_class"] == name and low < abs(line["distance"]) <= high]
            if not part:
                continue
            row: dict[str, Any] = {
                "site_class": name,
                "from_distance": low + 1,
                "to_distance": high,
                "n_rows": len(part),
                "n_true": sum(line["label"] == name for line in part),
            }
            for which in models:
                chances = np.array([line[f"{which}_{name}"] for line in part])
                row |= {f"mean_{which}": float(chances.mean()), f"called_{which}": float((chances >= 0.5).mean())}
            found.append(row)
    return found
