"""The main job on bundled real data: a part of thale cress chromosome 1, from genome and annotation to predictions."""

from pathlib import Path

from mi_duck.data.dataset import open_dataset
from mi_duck.ensemble.model_file import load_unified_model
from mi_duck.ensemble.predict import predict_file
from mi_duck.genome.build import build
from mi_duck.processes import Context
from mi_duck.settings import Asked
from mi_duck.workflow.pipeline import run

DATA = Path(__file__).resolve().parents[1] / "bundled" / "athaliana_chr1_start"
GENES_PER_INSTANCE = 150  # 386 genes make 3 instances
LEFT_OUT = "5mer_.*"  # nine features in ten, which gain little here and take most of the time


def run_demo(out: Path, context: Context, *, seed: int) -> dict[str, Path]:
    """Build, plan, train, consolidate, evaluate and predict; what is there already is kept.

    All genes are trained on, so the predictions show how a file of them looks and are no result; the scores are of
    ``oof_predictions.parquet``.
    """
    dataset, folder, predictions = out / "dataset", out / "run", out / "predictions.parquet"
    if not (dataset / "build.json").is_file():
        context.say("building a dataset from the first 1.5 Mb of thale cress chromosome 1")
        (fasta,), (annotation,) = DATA.glob("*.fna.gz"), DATA.glob("*.gtf.gz")
        summary = build(fasta, annotation, dataset, seed=seed, report=context.report)
        context.say(
            f"{summary.n_genes:,} genes, {summary.n_donors:,} donors, {summary.n_acceptors:,} acceptors, {summary.n_rows:,} rows"
        )
    asked = Asked(
        strategy="multi",
        genes_per_instance=GENES_PER_INSTANCE,
        n_estimators=200,
        early_stopping_patience=15,
        learning_rate=0.2,
        seed=seed,
    )
    run(open_dataset(str(dataset), exclude=LEFT_OUT), folder, asked, context)
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
