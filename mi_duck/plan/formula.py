"""What training would be before any row is looked at: its settings, and its memory by formula."""

from dataclasses import dataclass

from mi_duck.errors import PlanError
from mi_duck.plan.indexing import Indexed
from mi_duck.plan.times import usual_trees
from mi_duck.run.costs import Layout, MemoryModel, is_sketched_whole
from mi_duck.run.plan import Settings
from mi_duck.run.xgboost_parameters import checked_parameters, leaf_weight, with_usual
from mi_duck.settings import Asked

ROUNDS_WORTH_A_MATRIX = 40


@dataclass(frozen=True, slots=True)
class ByFormula:
    """The settings of the training where missing values stay missing, and its memory with as many as the footers say."""

    settings: Settings
    model: MemoryModel


def by_formula(indexed: Indexed, asked: Asked, *, threads: int) -> ByFormula:
    """Return settings as asked or as follows from data, and the memory of training by formula."""
    data, n_features = indexed.data, len(indexed.data.features)
    settings = Settings(
        seed=asked.seed,
        n_folds=asked.n_folds,
        n_estimators=asked.n_estimators,
        early_stopping_patience=asked.early_stopping_patience,
        max_depth=asked.max_depth,
        learning_rate=asked.learning_rate,
        max_bin=asked.max_bin,
        device=asked.device,
        calibrate=asked.calibrate_per_class,
        xgb_parameters=with_usual(checked_parameters(asked.xgb), n_features=n_features, weight=indexed.weight),
        layout_used="missing",
        zero_is_missing=(),
        cv_used=choose_cv(asked.cv, asked.n_estimators, n_features=n_features, n_sketched=indexed.n_sketched),
        easy_share=indexed.easy_share,
    )
    genes = indexed.genes
    shares = genes.label_counts.sum(axis=0) / genes.label_counts.sum()
    least = leaf_weight(settings.xgb_parameters)
    if data.weight_column is not None:
        least = min(least, 1.0)  # weights of the user's own may let leaves have few rows all the same
    layout = Layout(
        n_features=n_features,
        n_wide=indexed.n_sketched,
        bins=sum(indexed.bins.values()),
        missing_share=indexed.missing_share,
        stored_share=1.0,
        has_sparse_column=indexed.has_sparse_column,
        n_classes=len(data.classes),
        max_bin=asked.max_bin,
        max_depth=asked.max_depth,
        threads=threads,
        cv=settings.cv_used,
        is_external=asked.strategy == "external",
        scored_per_row=data.n_rows / int(genes.n_training_rows.sum()),
        leaf_rows=least / float((shares * (1 - shares)).max()),
        has_weights=data.weight_column is not None,
        n_trees=usual_trees(settings, len(data.classes)),
    )
    return ByFormula(settings, MemoryModel(layout, asked.memory_per_gene_mb))


def choose_cv(asked: str, n_estimators: int, *, n_features: int, n_sketched: int) -> str:
    """Return how the rows of a test fold are kept from training: as asked; else by what is faster.

    A matrix for each fold saves a third of the time of its rounds and costs a build: 12 s against .2 s per round for 580,000
    rows of 1,167 features, so it pays from some 40 rounds of three classes. Without cuts that are known beforehand, folds
    of their own would be cut otherwise. The choice depends on settings and columns alone, so that the same settings give
    the same models on every machine.
    """
    if is_sketched_whole(n_sketched, n_features):
        if asked == "matrices":
            raise PlanError(
                f"--cv matrices needs the cuts of all columns beforehand, which {n_sketched:,} columns of {n_features:,} that "
                "have more values than a byte or than --max-bin make too expensive; leave --cv out"
            )
        return "weights"
    if asked != "auto":
        return asked
    return "matrices" if n_estimators >= ROUNDS_WORTH_A_MATRIX else "weights"
