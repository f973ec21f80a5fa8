"""From contributions to the tables and the summary that are written; every number comes from one place."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mi_duck.ensemble.shap import Contributions, Importance, Numbers, rank_correlation
from mi_duck.run.feature_names import Group, feature_kind, kmer_of

TOP = 10
Record = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Names:
    """What the numbers are about.

    Parameters
    ----------
    features, classes, instances
        Names; instances by their number, ``instance_00``.
    groups
        Groups of features.
    suspects
        Features that the leakage report names, or None where there is no report.
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


def rank_order(values: Numbers) -> list[int]:
    """Return places from the largest value to the smallest; equal ones in their order."""
    return [int(place) for place in np.argsort(-values, kind="stable")]


def _number(value: float) -> float | str:
    """Return a number for a table; an empty cell for what could not be computed."""
    return float(value) if np.isfinite(value) else ""


def _suspect(names: Names, feature: str) -> int | str:
    return "" if names.suspects is None else int(feature in names.suspects)


def ensemble_table(found: Contributions, names: Names) -> list[Record]:
    """Return importances over all classes, with their spread over instances."""
    by_instance = np.stack([one.value for one in found.by_instance])
    return [
        {
            "feature": names.features[place],
            "importance": float(found.overall.value[place]),
            "se": _number(found.overall.error[place]),
            "rank": rank + 1,
            "instance_sd": _number(_sd(by_instance[:, place])),
            "instance_min": float(by_instance[:, place].min()),
            "instance_max": float(by_instance[:, place].max()),
            "kind": kind_of(names.features[place]),
            "is_suspect": _suspect(names, names.features[place]),
        }
        for rank, place in enumerate(rank_order(found.overall.value))
    ]


def class_table(found: Contributions, names: Names, index: int) -> list[Record]:
    """Return importances in one class: with sign and direction, and their spread over instances."""
    one = found.by_class[index]
    by_instance = np.stack([row[index].value for row in found.by_booster])
    return [
        {
            "feature": names.features[place],
            "importance": float(one.value[place]),
            "se": _number(one.error[place]),
            "rank": rank + 1,
            "mean_value": float(found.mean_value[index, place]),
            "direction": _number(found.direction[index, place]),
            "instance_sd": _number(_sd(by_instance[:, place])),
            "instance_min": float(by_instance[:, place].min()),
            "instance_max": float(by_instance[:, place].max()),
            "kind": kind_of(names.features[place]),
            "is_suspect": _suspect(names, names.features[place]),
        }
        for rank, place in enumerate(rank_order(one.value))
    ]


def _sd(values: Numbers) -> float:
    return float(values.std(ddof=1)) if len(values) > 1 else float("nan")


def instance_table(found: Contributions, names: Names, member: int) -> list[Record]:
    """Return importances in one instance: over all classes, then class by class."""
    whole = found.by_instance[member]
    records = []
    for rank, place in enumerate(rank_order(whole.value)):
        record: Record = {
            "feature": names.features[place],
            "importance": float(whole.value[place]),
            "se": _number(whole.error[place]),
            "rank": rank + 1,
        }
        for index, name in enumerate(names.classes):
            one = found.by_booster[member][index]
            record |= {f"importance_{name}": float(one.value[place]), f"se_{name}": _number(one.error[place])}
        records.append(record)
    return records


def legacy_table(found: Contributions, names: Names) -> list[Record]:
    """Return the same importances under the columns that the seeds name."""
    return [
        {"feature": names.features[place]}
        | {
            f"importance_{name}": float(one.value[place])
            for name, one in zip(names.classes, found.by_class, strict=True)
        }
        | {
            "importance_mean": float(found.overall.value[place]),
            "shap_importance": float(found.overall.value[place]),
        }
        for place in rank_order(found.overall.value)
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
        places = [number for number, group in enumerate(names.groups) if group.kind == kind]
        order = sorted(places, key=lambda place: -found.groups_overall.value[place])
        for rank, place in enumerate(order):
            group = names.groups[place]
            record: Record = {
                "kind": kind,
                "group": group.name,
                "n_features": len(group.members),
                "importance": float(found.groups_overall.value[place]),
                "se": _number(found.groups_overall.error[place]),
                "rank": rank + 1,
                "sum_of_members": float(found.overall.value[list(group.members)].sum()),
            }
            for name, one in zip(names.classes, found.groups_by_class, strict=True):
                record |= {f"importance_{name}": float(one.value[place]), f"se_{name}": _number(one.error[place])}
            records.append(record)
    return records


def agreement(found: Contributions) -> Numbers:
    """Return rank correlations of the instances' importances, shape (n_instances, n_instances).

    Only features that some instance uses count: hundreds of zeros in common would look like agreement.
    """
    values = np.stack([one.value for one in found.by_instance])
    values = values[:, values.max(axis=0) > 0]
    return np.array([[rank_correlation(first, second) for second in values] for first in values])


def agreement_table(correlations: Numbers, names: Names) -> list[Record]:
    """Return the rank correlation of every two instances; of a single one none."""
    return [
        {
            "first": names.instances[one],
            "second": names.instances[two],
            "rank_correlation": _number(correlations[one, two]),
        }
        for one in range(len(names.instances))
        for two in range(one + 1, len(names.instances))
    ]


def _top(names: Names, one: Importance, n: int = TOP, only: Sequence[int] | None = None) -> dict[str, float]:
    places = [place for place in rank_order(one.value) if only is None or place in set(only)]
    return {names.features[place]: float(one.value[place]) for place in places[:n]}


def summary_facts(found: Contributions, names: Names, correlations: Numbers) -> Record:
    """Return the numbers of the summary, under the names that the seeds use where they have one."""
    overall = found.overall
    kmers = [number for number, name in enumerate(names.features) if kmer_of(name)]
    others = [number for number, name in enumerate(names.features) if not kmer_of(name)]
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
            "kmer_mean_importance": float(overall.value[kmers].mean()) if kmers else None,
            "non_kmer_mean_importance": float(overall.value[others].mean()) if others else None,
            "kmer_share": float(overall.value[kmers].sum()) / total if total else None,
            "top_kmer_features": _top(names, overall, 5, kmers),
            "top_non_kmer_features": _top(names, overall, 5, others),
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
            "sd": _null(_sd(overall.value)),
            "min": float(overall.value.min()),
            "max": float(overall.value.max()),
            "largest_relative_se_of_top_20": _null(float(relative.max())) if np.isfinite(relative).all() else None,
        },
        "instance_agreement": {
            "mean_rank_correlation": _null(float(pairs.mean())) if len(pairs) else None,
            "n_in_top_20_of_every_instance": len(in_all),
            "lowest_rank_correlation": _null(float(pairs.min())) if len(pairs) else None,
        },
        "suspects": None if names.suspects is None else sorted(names.suspects),
        "suspects_in_top_10": None
        if names.suspects is None
        else [name for name in _top(names, overall) if name in names.suspects],
    }


def _null(value: float) -> float | None:
    return value if np.isfinite(value) else None
