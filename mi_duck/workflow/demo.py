"""The main job on bundled real data: a part of thale cress chromosome 1, from genome and annotation to predictions."""

from pathlib import Path

from mi_duck.data.dataset import open_dataset
from mi_duck.processes import Context, in_child
from mi_duck.settings import Asked
from mi_duck.workflow.pipeline import run
from mi_duck.workflow.steps import build, predict

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
        built = in_child(build, context)(fasta=str(fasta), annotation=str(annotation), out=str(dataset), seed=seed)
        context.say(
            ", ".join(f"{built.value[f'n_{what}']:,} {what}" for what in ("genes", "donors", "acceptors", "rows"))
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
    predicted = in_child(predict, context)(
        run=str(folder), dataset=str(dataset), out=str(predictions), threads=context.threads
    )
    for words in predicted.value:
        context.say(f"warning: {words}")
    return {
        "dataset": dataset,
        "run": folder,
        "model": folder / "consolidated_model.miduck",
        "catalogue": folder / "run.duckdb",
        "out of fold": folder / "oof_predictions.parquet",
        "predictions": predictions,
    }
