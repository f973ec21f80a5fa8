"""The main job on bundled real data: fruit fly chromosome 4, from genome and annotation to predictions."""

from pathlib import Path

from mi_duck.data.dataset import open_dataset
from mi_duck.ensemble.model_file import load_unified_model
from mi_duck.ensemble.predict import predict_file
from mi_duck.genome.build import build
from mi_duck.processes import Context
from mi_duck.settings import Asked, Diagnostics
from mi_duck.workflow.pipeline import run

DATA = Path(__file__).resolve().parents[1] / "bundled" / "dmel_chr4"
WHOLE_GENES = 20  # scored at every position; the genes of this chromosome are long
GENES_PER_INSTANCE = 40  # 93 genes make 3 instances


def run_demo(out: Path, context: Context, *, seed: int) -> dict[str, Path]:
    """Build, plan, train, consolidate, evaluate and predict; what is there already is kept.

    All genes are trained on, so the predictions show how a file of them looks and are no result; the scores are of
    ``oof_predictions.parquet``.
    """
    dataset, folder, predictions = out / "dataset", out / "run", out / "predictions.parquet"
    if not (dataset / "build.json").is_file():
        context.say("building a dataset from fruit fly chromosome 4")
        (fasta,), (annotation,) = DATA.glob("*.fna.gz"), DATA.glob("*.gtf.gz")
        summary = build(fasta, annotation, dataset, seed=seed, report=context.report)
        context.say(
            f"{summary.n_genes:,} genes, {summary.n_donors:,} donors, {summary.n_acceptors:,} acceptors, {summary.n_rows:,} rows"
        )
    asked = Asked(
        strategy="multi", genes_per_instance=GENES_PER_INSTANCE, n_estimators=200, early_stopping_patience=15, seed=seed
    )
    run(open_dataset(str(dataset)), folder, asked, context, diagnostics=Diagnostics(true_rate_genes=WHOLE_GENES))
    model = load_unified_model(folder)
    predicted = predict_file(model, str(dataset), predictions, threads=context.threads, report=context.report)
    for words in predicted.warnings:
        context.say(f"warning: {words}")
    return {
        "dataset": dataset,
        "run": folder,
        "model": folder / "consolidated_model.miduck",
        "catalogue": folder / "run.duckdb",
        "out of fold": folder / "oof_predictions.parquet",
        "predictions": predictions,
    }
