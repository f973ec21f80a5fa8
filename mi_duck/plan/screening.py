"""A pilot on a few genes chooses features where they are many."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from mi_duck.boosting.steps import feature_gains
from mi_duck.errors import PlanError
from mi_duck.plan.formula import by_formula
from mi_duck.plan.indexing import Indexed
from mi_duck.plan.probes import sizes_to_look_at
from mi_duck.plan.small_run import SmallRun, open_small_run
from mi_duck.processes import Context, in_child
from mi_duck.run.folder import RunFolder
from mi_duck.run.xgboost_parameters import checked_parameters
from mi_duck.settings import Asked

PILOT_GENES = 200
PILOT_ROUNDS, PILOT_RATE, PILOT_DEPTH = 60, 0.1, 6
GENES_WORTH_SCREENING = 10 * PILOT_GENES  # so that one in ten at most is not scored
FEATURES_WORTH_SCREENING, USUAL_FEATURES = 450, 300


def choose_features(asked: int | None, *, n_features: int, n_genes: int) -> int | None:
    """Return how many features a pilot is to keep: as asked; else 300 where features and genes are many; None: all.

    With 300 of 1,138 features of a plant scores were those of all within .001, in two fifths of the CPU time
    (`benchmarks/bench_settings.py`).
    """
    if asked is None:
        is_worth = n_features >= FEATURES_WORTH_SCREENING and n_genes >= GENES_WORTH_SCREENING
        return USUAL_FEATURES if is_worth else None
    return asked if 0 < asked < n_features else None


def screen_features(
    indexed: Indexed, wanted: int, folder: RunFolder, asked: Asked, context: Context, *, is_probed: bool
) -> Indexed:
    """Return the data with the features that a pilot on the genes of lowest rank gained most from.

    Base scores stay, because they are what the model is compared with. The genes of the pilot are trained on but never
    scored: they chose the features. Where memory is to be probed too (``is_probed``), the rows of the probes are read in the
    same pass over the files.
    """
    data = indexed.data
    n_genes = pilot_size(indexed.genes.group.tolist())
    start = by_formula(indexed, asked, threads=context.threads)
    settings = replace(
        start.settings,
        learning_rate=PILOT_RATE,
        max_depth=PILOT_DEPTH,
        xgb_parameters=checked_parameters(asked.xgb),  # rows are few, and every feature is to be seen at every node
    )
    sizes = [n_genes]
    if is_probed:
        sizes += sizes_to_look_at(asked, start.settings, indexed.genes.n_training_rows, start.model.layout)[0]
    pilot = open_small_run(
        folder, asked, data, settings, indexed.genes, sizes, context, model=start.model, name="pilot"
    )
    gains = screen(pilot, context)
    kept = best_features(gains, data.features, wanted, always=data.base_scores)
    features, small, wide = (
        tuple(name for name in names if name in kept)
        for names in (data.features, data.small_features, data.wide_features)
    )
    share = sum(gains[name] for name in features) / max(sum(gains.values()), 1e-300)
    context.say(
        f"screening: a pilot on {data.noun.count(n_genes)} keeps {len(features):,} of {len(data.features):,} features, "
        f"{share:.1%} of the gain; these {data.noun.many} are trained on and not scored (--screen-features 0 keeps all)"
    )
    fewer = replace(
        data,
        features=features,
        small_features=small,
        wide_features=wide,
        screened_features=tuple(name for name in data.features if name not in kept),
        pilot_genes=n_genes,
    )
    return replace(indexed, data=fewer, bins={name: indexed.bins[name] for name in features}, pilot=pilot)


def pilot_size(groups: Sequence[str]) -> int:
    """Return how many genes of lowest rank a pilot looks at: whole fold groups, at most a quarter of all.

    ``groups`` are the fold groups of all genes by rank.
    """
    n_genes = min(PILOT_GENES, len(groups) // 4)
    while 0 < n_genes < len(groups) and groups[n_genes] == groups[n_genes - 1]:
        n_genes += 1  # a group is in the pilot whole or not at all
    if n_genes == 0:
        raise PlanError(f"{len(groups)} genes are too few to spare a pilot for --screen-features; leave it out")
    return n_genes


def screen(small_run: SmallRun, context: Context) -> dict[str, float]:
    """Return the total gain of every feature over all classes in a pilot on the genes of a small run."""
    small_run.write_plan(rounds=PILOT_ROUNDS)
    return in_child(feature_gains, context, frees_at_once=True)(
        run=str(small_run.folder.root), instance_id=0, threads=context.threads
    ).value


def best_features(
    gains: Mapping[str, float], features: Sequence[str], wanted: int, *, always: Sequence[str]
) -> frozenset[str]:
    """Return the features with the largest gains, ties by their order, and those that always stay."""
    best = sorted(features, key=lambda name: -gains[name])
    return frozenset(best[:wanted]) | frozenset(always)
