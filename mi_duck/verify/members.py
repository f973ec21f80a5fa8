"""Checks the folder of every instance: manifest, hashes, genes, models, out-of-fold predictions, measured peak."""

import json
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa

from mi_duck.checkpoint import read_parts
from mi_duck.database import Database
from mi_duck.ensemble.ensemble import InstanceModel
from mi_duck.ensemble.model_files import load_unified_model
from mi_duck.ensemble.out_of_fold import read_fold_models
from mi_duck.plan.plan import Instance
from mi_duck.report.instance_files import CURVES, IMPORTANCE, IMPORTANCE_PLOT, SCORES, UNSEEN
from mi_duck.resources import GIB
from mi_duck.train.encoding import encoding_of
from mi_duck.train.instance_state import TRAINED, differences_of, instance_state, key_of, made_of, read_manifest
from mi_duck.verify.findings import DAMAGED, MISSING, NOT_APPLICABLE, OK, Finding, Verdict, guarded, skipped, verdict
from mi_duck.verify.scored import read_scored
from mi_duck.verify.subject import Subject

BESIDE = ("manifest.json", "measurement.json")
SHAP = "shap_analysis"
DESCRIBING = {*SCORES, *UNSEEN, *CURVES.values(), IMPORTANCE, IMPORTANCE_PLOT}
"""Files that leave the manifest while they are written anew."""


def check_instance(db: Database, subject: Subject, instance: Instance, genes: pa.Table | None) -> Iterator[Finding]:
    """Yield what is found in the folder of one instance."""
    where, name = subject.folder.instance(instance), instance.name
    if not (where / "manifest.json").is_file():
        lost = instance_state(subject.folder, subject.plan, instance).detail
        why = f"lost: {lost}" if lost else "not trained"
        yield Finding(name, MISSING, f"{why}; 'mi-duck train {subject.folder.root}' goes on")
        return
    manifest: dict[str, str] = {}
    yield guarded(f"{name}: manifest", lambda: _manifest(subject, instance, manifest))
    if not manifest:
        return
    yield guarded(f"{name}: files", lambda: _files(subject, where, manifest))
    yield guarded(f"{name}: nothing else there", lambda: _strangers(subject, where, manifest))

    def whole(file: str) -> bool:
        return (where / file).is_file() and subject.sha256(where / file) == manifest.get(file)

    checks = {
        "genes.txt": lambda: _genes(where, instance, genes),
        "model_multiclass.miduck": lambda: _model(subject, where, instance),
        "fold_models.miduck": lambda: _fold_models(subject, where),
        "oof_predictions.parquet": lambda: _predictions(db, subject, where, instance, genes),
    }
    for file, check in checks.items():
        if not whole(file):
            yield skipped(f"{name}: {file}", "its hash is not that of the manifest, so it is not opened")
        elif genes is None and file in ("genes.txt", "oof_predictions.parquet"):
            yield skipped(f"{name}: {file}", "genes.parquet cannot be used")
        else:
            yield guarded(f"{name}: {file}", check)
    yield guarded(f"{name}: measured peak", lambda: _peak(subject, where))


def _manifest(subject: Subject, instance: Instance, into: dict[str, str]) -> Verdict:
    """Compare the manifest with the plan; put the hashes that it states into a table, none where it is no manifest."""
    found = read_manifest(subject.folder.instance(instance))
    hashes = {str(file): str(digest) for file, digest in found["sha256"].items()}
    outside = [file for file in hashes if PurePosixPath(file).is_absolute() or ".." in PurePosixPath(file).parts]
    problems = [f"names {file}, which lies elsewhere" for file in outside]
    problems += [f"does not name {file}" for file in TRAINED if file not in hashes]
    expected: dict[str, Any] = {
        "instance_id": instance.instance_id,
        "n_genes": instance.n_genes,
        "n_rows": instance.n_rows,
    }
    problems += [
        f"{key} is {found[key]}, the plan says {value}" for key, value in expected.items() if found[key] != value
    ]
    wanted = made_of(subject.plan, instance)
    if found["made_of"] != wanted:
        problems.append(f"belongs to another plan: {differences_of(found['made_of'], wanted)}")
    if found["key"] != key_of(found["made_of"]):
        problems.append("its key is not that of what it says it was made of")
    if not outside:
        into |= hashes
    return verdict(problems, f"{len(hashes)} files, key as in the plan")


def _files(subject: Subject, where: Path, hashes: dict[str, str]) -> Verdict:
    gone = [file for file in hashes if not (where / file).is_file()]
    changed = [file for file, digest in hashes.items() if file not in gone and subject.sha256(where / file) != digest]
    if changed:
        return verdict([f"{file} has another hash than the manifest says" for file in changed], "")
    if gone:
        return MISSING, f"{', '.join(gone)} named by the manifest and not there"
    return OK, f"{len(hashes)} hashes"


def _strangers(subject: Subject, where: Path, hashes: dict[str, str]) -> Verdict:
    names = {file.relative_to(where).as_posix() for file in where.rglob("*") if not file.is_dir()}
    unknown = sorted(name for name in names - set(hashes) - set(BESIDE) if not name.startswith(f"{SHAP}/"))
    foreign = [name for name in unknown if name not in DESCRIBING]
    if foreign:
        return verdict([f"{name} is no file of an instance" for name in foreign], "")
    if unknown:
        return MISSING, f"{', '.join(unknown)} not in the manifest: they were being written anew when the run ended"
    return OK, f"{len(names)} files"


def _genes(where: Path, instance: Instance, genes: pa.Table | None) -> Verdict:
    there = (where / "genes.txt").read_bytes().decode().split("\n")
    window = [] if genes is None else genes["gene_id"].to_pylist()[instance.first_rank : instance.stop_rank]
    same = there == [*window, ""]
    return verdict([] if same else ["its genes are not those of the window in plan.json"], f"{len(window):,} genes")


def _model(subject: Subject, where: Path, instance: Instance) -> Verdict:
    plan, model = subject.plan, load_unified_model(where / "model_multiclass.miduck")
    if not isinstance(model, InstanceModel):
        return DAMAGED, "it is no model of an instance"
    facts = {name: model.metadata[name] for name in ("instance_id", "n_genes", "n_rows", "n_training_rows")}
    pairs = {
        "features": (tuple(model.features), plan.features),
        "classes": (tuple(model.classes), plan.classes),
        "encoding": (model.encoding, encoding_of(plan.settings.layout, plan.zero_is_missing)),
        "rounds": ([one.num_boosted_rounds() for one in model.boosters], model.metadata["rounds"]),
    } | {name: (value, getattr(instance, name)) for name, value in facts.items()}
    problems = [f"its {name} are not those of the plan" for name, (one, other) in pairs.items() if one != other]
    return verdict(problems, f"{len(model.boosters)} boosters of {model.metadata['rounds']} rounds")


def _fold_models(subject: Subject, where: Path) -> Verdict:
    plan, path = subject.plan, where / "fold_models.miduck"
    facts = json.loads(read_parts(path)["model.json"])
    models = read_fold_models(path)
    rounds = [[one.num_boosted_rounds() for one in row] for row in models.boosters]
    pairs = {
        "features": (tuple(facts["features"]), plan.features),
        "classes": (tuple(facts["classes"]), plan.classes),
        "encoding": (facts["encoding"], encoding_of(plan.settings.layout, plan.zero_is_missing).to_dict()),
        "folds": (len(models.boosters), plan.settings.n_folds),
        "rounds": (rounds, facts["rounds"]),
    }
    problems = [f"its {name} are not those of the plan" for name, (one, other) in pairs.items() if one != other]
    return verdict(problems, f"{len(models.boosters)} folds of {len(plan.classes)} boosters")


def _predictions(db: Database, subject: Subject, where: Path, instance: Instance, genes: pa.Table | None) -> Verdict:
    found = read_scored(
        db,
        where / "oof_predictions.parquet",
        subject.plan.classes,
        first_row=0 if genes is None else genes["first_row"][instance.first_rank].as_py(),
        ranks=(instance.first_rank, instance.stop_rank),
        has_margins=True,
    )
    return verdict(found.problems, f"{found.n_rows:,} rows, each once, in the folds of their genes")


def _peak(subject: Subject, where: Path) -> Verdict:
    try:
        peak = json.loads((where / "measurement.json").read_bytes())["peak_bytes"]
    except FileNotFoundError:
        return NOT_APPLICABLE, "not measured: the run ended between training and measurement"
    budget = subject.plan.budget_bytes
    words = f"{peak / GIB:.2f} GiB of {budget / GIB:.2f}"
    return (OK, words) if 0 < peak <= budget else (DAMAGED, f"{words}: more than the budget")
