"""The main job on bundled real data: fruit fly chromosome 4, from genome and annotation to predictions."""

from collections.abc import Callable
from pathlib import Path

from mi_duck.data.dataset import open_dataset
from mi_duck.ensemble.model_file import load_unified_model
from mi_duck.ensemble.predict import predict_file
from mi_duck.genome.build import build
from mi_duck.plan.make_plan import PlanOptions
from mi_duck.processes import Report
from mi_duck.run.plan import Settings
from mi_duck.workflow.pipeline import run

DATA = Path(__file__).resolve().parents[1] / "bundled" / "dmel_chr4"
GENES_PER_INSTANCE = 40  # 93 genes make 3 instances


def run_demo(out: Path, *, seed: int, threads: int, report: Report, say: Callable[[str], None]) -> dict[str, Path]:
    """Build, plan, train, consolidate, evaluate and predict; what is there already is kept.

    Parameters
    ----------
    out
        Folder for dataset, run and predictions.
    seed, threads
        Of the run.
    report, say
        Take progress and messages.

    Returns
    -------
    dict
        Name to path of what was written.
    """
    dataset, folder, predictions = out / "dataset", out / "run", out / "predictions.parquet"
    if not (dataset / "build.json").is_file():
        say("building a dataset from fruit fly chromosome 4")
        (fasta,), (annotation,) = DATA.glob("*.fna.gz"), DATA.glob("*.gtf.gz")
        summary = build(fasta, annotation, dataset, seed=seed, report=report)
        say(
            f"{summary.n_genes:,} genes, {summary.n_donors:,} donors, {summary.n_acceptors:,} acceptors, {summary.n_rows:,} rows"
        )
    run(
        open_dataset(str(dataset)),
        folder,
        options=PlanOptions(strategy="multi", genes_per_instance=GENES_PER_INSTANCE),
        settings=Settings(
            seed=seed,
            n_folds=3,
            n_estimators=200,
            early_stopping_patience=15,
            max_depth=6,
            learning_rate=0.1,
            max_bin=256,
            calibrate=True,
        ),
        threads=threads,
        report=report,
        say=say,
    )
    predict_file(load_unified_model(folder), str(dataset), predictions, threads=threads, report=report)
    return {
        "dataset": dataset,
        "run": folder,
        "model": folder / "consolidated_model.miduck",
        "catalogue": folder / "run.duckdb",
        "predictions": predictions,
    }
