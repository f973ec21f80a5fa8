"""From contributions to the tables of an analysis and the numbers of its summary."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mi_duck.atomic_files import write_csv
from mi_duck.ensemble.shap import Contributions, Importance
from mi_duck.metrics.ranking import Booleans, Floats64, average_ranks
from mi_duck.run.feature_names import Group, feature_kind, kmer_of

Record = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Names:
    """Names of features, classes, instances (``instance_00``) and groups.

    ``suspects`` are the features that the leakage report names, None where there is no report.
    """

    features: tuple[str, ...]
    classes: tuple[str, ...]
    instances: tuple[str, ...]
    groups: tuple[Group, ...]
    suspects: frozenset[str] | None


def kind_of(feature: str) -> str:
    """Return the kind of a feature; k-mers by their length.

    Examples
    --------
    >>> kind_of("5mer_GTAAG"), kind_of("donor_score")
    ('5-mer', 'base score')
    """
    kmer = kmer_of(feature)
    return f"{len(kmer)}-mer" if kmer else feature_kind(feature)


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


def rank_order(values: Floats64) -> list[int]:
    """Return indices from the largest value to the smallest; equal ones in their order."""
    return [int(index) for index in np.argsort(-values, kind="stable")]


def write_tables(folder: Path, found: Contributions, names: Names, correlations: Floats64) -> None:
    """Write every table; those of families and of agreement only where there are families and several instances."""
    write_csv(folder / "ensemble_shap_importance.csv", _importance_table(found.overall, found.by_instance, names))
    for index, stem in enumerate(class_stems(names.classes)):
        of_instances = [row[index] for row in found.by_booster]
        signed = {"mean_value": found.mean_value[index], "direction": found.direction[index]}
        table = _importance_table(found.by_class[index], of_instances, names, **signed)
        write_csv(folder / f"{stem}_shap_importance.csv", table)
    for member, name in enumerate(names.instances):
        path = folder / "per_instance_results" / f"{name}_shap_importance.csv"
        write_csv(path, _instance_table(found, names, member))
    write_csv(folder / "shap_importance_incremental.csv", _short_table(found, names))
    write_csv(folder / "feature_groups.csv", group_table(found, names, ["kind of feature"]))
    families = group_table(found, names, ["reverse complement", "one mismatch"])
    if families:
        write_csv(folder / "kmer_families.csv", families)
    if len(names.instances) > 1:
        write_csv(folder / "instance_agreement.csv", _agreement_table(correlations, names))


def _number(value: float) -> float | str:
    """Return a number for a table; an empty cell for what could not be computed."""
    return float(value) if np.isfinite(value) else ""


def _sd(values: Floats64) -> float:
    return float(values.std(ddof=1)) if len(values) > 1 else float("nan")


def _estimate(one: Importance, index: int, suffix: str = "") -> Record:
    return {f"importance{suffix}": float(one.value[index]), f"se{suffix}": _number(one.error[index])}


def _estimates(names: Names, by_class: Sequence[Importance], index: int) -> Record:
    record: Record = {}
    for name, one in zip(names.classes, by_class, strict=True):
        record |= _estimate(one, index, f"_{name}")
    return record


def _importance_table(
    one: Importance, of_instances: Sequence[Importance], names: Names, **signed: Floats64
) -> list[Record]:
    """Return importances from the largest on, columns with a sign, the spread over instances, and what a feature is."""
    by_instance = np.stack([instance.value for instance in of_instances])
    records = []
    for rank, feature in enumerate(rank_order(one.value)):
        name, values = names.features[feature], by_instance[:, feature]
        record: Record = {"feature": name, **_estimate(one, feature), "rank": rank + 1}
        record |= {column: _number(numbers[feature]) for column, numbers in signed.items()}
        record |= {
            "instance_sd": _number(_sd(values)),
            "instance_min": float(values.min()),
            "instance_max": float(values.max()),
            "kind": kind_of(name),
            "is_suspect": "" if names.suspects is None else int(name in names.suspects),
        }
        records.append(record)
    return records


def _instance_table(found: Contributions, names: Names, member: int) -> list[Record]:
    """Return importances in one instance: over all classes, then per class."""
    whole = found.by_instance[member]
    return [
        {"feature": names.features[feature], **_estimate(whole, feature), "rank": rank + 1}
        | _estimates(names, found.by_booster[member], feature)
        for rank, feature in enumerate(rank_order(whole.value))
    ]


def _short_table(found: Contributions, names: Names) -> list[Record]:
    """Return the importances alone, under the column names that ``shap_importance_incremental.csv`` has always had."""
    by_class = list(zip(names.classes, found.by_class, strict=True))
    return [
        {"feature": names.features[feature]}
        | {f"importance_{name}": float(one.value[feature]) for name, one in by_class}
        | dict.fromkeys(("importance_mean", "shap_importance"), float(found.overall.value[feature]))
        for feature in rank_order(found.overall.value)
    ]


def group_table(found: Contributions, names: Names, kinds: Sequence[str]) -> list[Record]:
    """Return importances of groups of some kinds, ranked inside each kind.

    Notes
    -----
    ``importance`` is the mean absolute value of the sum of the members' values: what the group moves as a whole.
    ``sum_of_members`` adds the members' importances: what they move one by one, some against each other.
    """
    records = []
    for kind in kinds:
        of_kind = [number for number, group in enumerate(names.groups) if group.kind == kind]
        for rank, number in enumerate(sorted(of_kind, key=lambda number: -found.groups_overall.value[number])):
            group = names.groups[number]
            record: Record = {
                "kind": kind,
                "group": group.name,
                "n_features": len(group.members),
                **_estimate(found.groups_overall, number),
                "rank": rank + 1,
                "sum_of_members": float(found.overall.value[list(group.members)].sum()),
            }
            records.append(record | _estimates(names, found.groups_by_class, number))
    return records


def agreement(found: Contributions) -> Floats64:
    """Return Spearman's rank correlations of the instances' importances, shape (n_instances, n_instances).

    Only features that some instance uses count: hundreds of zeros in common would look like agreement.
    """
    values = np.stack([one.value for one in found.by_instance])
    values = values[:, values.max(axis=0) > 0]
    if values.shape[1] < 2:
        return np.full((len(values), len(values)), np.nan)
    with np.errstate(invalid="ignore", divide="ignore"):  # NaN where all features of an instance are equal
        return np.atleast_2d(np.corrcoef([average_ranks(one) for one in values]))


def _agreement_table(correlations: Floats64, names: Names) -> list[Record]:
    return [
        {"first": first, "second": names.instances[two], "rank_correlation": _number(correlations[one, two])}
        for one, first in enumerate(names.instances)
        for two in range(one + 1, len(names.instances))
    ]


def _top(names: Names, one: Importance, n: int = 10, only: Booleans | None = None) -> dict[str, float]:
    order = [feature for feature in rank_order(one.value) if only is None or only[feature]]
    return {names.features[feature]: float(one.value[feature]) for feature in order[:n]}


def summary_facts(found: Contributions, names: Names, correlations: Floats64) -> Record:
    """Return the numbers of ``shap_analysis_summary.json`` that describe importances."""
    overall = found.overall
    is_kmer = np.array([kmer_of(name) is not None for name in names.features])
    kmers, others = overall.value[is_kmer], overall.value[~is_kmer]
    total = float(overall.value.sum())
    pairs = correlations[np.triu_indices(len(correlations), 1)]
    top_20 = rank_order(overall.value)[:20]
    in_all = set.intersection(*(set(rank_order(one.value)[:20]) for one in found.by_instance))
    with np.errstate(invalid="ignore", divide="ignore"):
        relative = overall.error[top_20] / overall.value[top_20]
    return {
        "analysis_type": "comprehensive_ensemble_shap",
        "n_instances": len(names.instances),
        "n_binary_models": len(names.instances) * len(names.classes),
        "n_features": len(names.features),
        "n_features_used": int((overall.value > 0).sum()),
        "classes": list(names.classes),
        "top_features_names": list(_top(names, overall)),
        "top_10_features": _top(names, overall),
        "feature_type_analysis": {
            "n_kmer_features": len(kmers),
            "n_non_kmer_features": len(others),
            "kmer_mean_importance": float(kmers.mean()) if len(kmers) else None,
            "non_kmer_mean_importance": float(others.mean()) if len(others) else None,
            "kmer_share": float(kmers.sum()) / total if total else None,
            "top_kmer_features": _top(names, overall, 5, is_kmer),
            "top_non_kmer_features": _top(names, overall, 5, ~is_kmer),
        },
        "class_summaries": {
            name: {
                "top_10_features": _top(names, one),
                "total_importance": float(one.value.sum()),
                "n_features_used": int((one.value > 0).sum()),
            }
            for name, one in zip(names.classes, found.by_class, strict=True)
        },
        "importance_statistics": {
            "total": total,
            "mean": float(overall.value.mean()),
            "sd": _finite(_sd(overall.value)),
            "min": float(overall.value.min()),
            "max": float(overall.value.max()),
            "largest_relative_se_of_top_20": _finite(float(relative.max())),
        },
        "instance_agreement": {
            "mean_rank_correlation": _finite(float(pairs.mean())) if len(pairs) else None,
            "n_in_top_20_of_every_instance": len(in_all),
            "lowest_rank_correlation": _finite(float(pairs.min())) if len(pairs) else None,
        },
        "suspects": None if names.suspects is None else sorted(names.suspects),
        "suspects_in_top_10": None
        if names.suspects is None
        else [name for name in _top(names, overall) if name in names.suspects],
    }


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None
