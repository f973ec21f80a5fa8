"""Features as a model was trained on them: its recipe, and what of a request would contradict it."""

from collections.abc import Sequence
from pathlib import Path

from mi_duck.errors import CheckpointError, DataError
from mi_duck.genome.sequence import KMER_LENGTHS
from mi_duck.run.recipe import Recipe
from mi_duck.settings import Building


def recipe_like(
    like: Path, *, window: int, gene_features: bool, annotation_features: bool, base_scores: Sequence[str | Path]
) -> tuple[Recipe, str]:
    """Return the recipe of a model and the hash of the model, after a check that nothing else is asked for.

    Parameters
    ----------
    like
        Run folder or model file.
    window, gene_features, annotation_features, base_scores
        As asked of `mi_duck.genome.build.build`; at their defaults they are the model's.

    Raises
    ------
    CheckpointError
        There is no model, or its dataset was not built from sequence.
    DataError
        Another window or other features are asked for than the model has, or base scores are of another kind.
    """
    from mi_duck.ensemble.model_file import load_unified_model, model_sha256

    model = load_unified_model(like)
    recipe = recipe_of(model.recipe, str(like))
    plain = Building()
    given = {"window": window, "gene_features": gene_features, "annotation_features": annotation_features}
    for name, value in given.items():
        if value not in (getattr(plain, name), own := getattr(recipe, name)):
            flag = f"--{'no-' * (name == 'gene_features')}{name.replace('_', '-')}"
            raise DataError(
                f"{flag} is asked for, but the model of {like} has {own} there; leave {flag} out, or --like"
            )
    check_kind(recipe, base_scores, str(like))
    return recipe, model_sha256(model)


def recipe_of(recipe: Recipe | None, source: str) -> Recipe:
    """Return a model's recipe; a CheckpointError where it has none, or one that this program does not know."""
    if recipe is None:
        raise CheckpointError(
            f"the model of {source} does not say how its features are made of sequence; train a run on a dataset of "
            "'mi-duck build' of this version, and give the run's folder"
        )
    if recipe.kmer_lengths != KMER_LENGTHS:
        raise CheckpointError(
            f"the model of {source} counts k-mers of lengths {recipe.kmer_lengths}, this program {KMER_LENGTHS}; "
            "use the version of mi-duck that trained it"
        )
    return recipe


def check_kind(recipe: Recipe, base_scores: Sequence[str | Path], source: str) -> None:
    """Refuse base scores of another kind than those that a model was trained on."""
    if recipe.matrices is None and not base_scores:
        raise DataError(f"the model of {source} was trained on the scores of files; give such files with --base-scores")
    if recipe.matrices is not None and base_scores:
        raise DataError(
            f"the model of {source} was trained on the scores of weight matrices, which it has; leave --base-scores out"
        )
