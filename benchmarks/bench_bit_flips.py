"""Is a flipped bit or a cut in an input file refused, harmless, or another result that nobody notices? Counts of each.

Usage: python benchmarks/bench_bit_flips.py [TRIES [WRITER ...]]   (300 bits a line and 64 cuts; some minutes)

Every try flips one bit anywhere in a file of 30 genes, makes the plan and the segments, or the segments of a plan that was
made before, or predictions, and compares them with those of the whole file. Tries run in child processes, so that a
crash is one more outcome. The exit code is 1 if a file with page checksums, or one that was hashed, gives another result
from damaged pages without a word.
"""

import hashlib
import json
import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
from harness import print_machine, quiet, workplace

from mi_duck.atomic_files import write_file
from mi_duck.boosting.train import train_instance
from mi_duck.data.dataset import open_dataset
from mi_duck.ensemble.model_file import load_unified_model
from mi_duck.ensemble.predict import predict_file
from mi_duck.errors import MiDuckError
from mi_duck.genome.synthetic import synthesise
from mi_duck.plan.cut import cut_instances
from mi_duck.plan.formula import by_formula
from mi_duck.plan.indexing import plan_data
from mi_duck.plan.layouts import LaidOut
from mi_duck.plan.strategies import cut_request
from mi_duck.processes import Context
from mi_duck.resources import Budget
from mi_duck.rows.partition import partition_here
from mi_duck.run.costs import Costs, Rates
from mi_duck.run.folder import RunFolder
from mi_duck.run.plan import Plan
from mi_duck.settings import Asked

WRITERS = ("pyarrow, checksums", "pyarrow", "DuckDB")
MOMENTS = {
    "plan": "before the plan",
    "segments": "after the plan",
    "hashed": "after, --full-hash",
    "predict": "before predict",
    "cut": "cut before the plan",
}
CUTS = 64
OUTCOMES = ("refused", "harmless", "silent in pages", "silent in footer", "crash")
ASKED = Asked(  # five rounds of depth 5
    strategy="single",
    memory_per_gene_mb=1.0,
    n_folds=2,
    n_estimators=5,
    early_stopping_patience=0,
    max_depth=5,
    learning_rate=0.3,
    max_bin=32,
    calibrate_per_class=False,
)


def write_data(folder: Path) -> None:
    """Write the same rows by every writer: small row groups, zstd."""
    synthesise(folder / "source", n_genes=30, rows_per_gene=40, n_features=25, missing_fraction=0.1)
    table = pa.concat_tables(pq.read_table(file) for file in sorted((folder / "source").rglob("*.parquet")))
    for number in range(len(WRITERS)):
        place = folder / str(number) / "data"
        place.mkdir(parents=True)
        if WRITERS[number] == "DuckDB":
            duckdb.from_arrow(table).write_parquet(str(place / "a.parquet"), compression="zstd", row_group_size=2048)
        else:
            pq.write_table(
                table, place / "a.parquet", compression="zstd", row_group_size=400, write_page_checksum=number == 0
            )


def make(data: Path, root: Path, *, full_hash: bool = False) -> Plan:
    """Plan one instance of all genes, without probes and without the search for leaks."""
    folder = RunFolder(root)
    dataset = open_dataset(str(data), full_hash=full_hash)
    context = Context(1, quiet, quiet)
    indexed = plan_data(dataset, folder, ASKED, context, with_leakage=False)
    start = by_formula(indexed, ASKED, threads=1)
    laid_out = LaidOut(start.settings, start.model, (), None, None, False)
    costs = Costs(laid_out.model, Rates(), 1.0)
    request = cut_request(indexed, ASKED, Budget(1 << 30, "the benchmark", True))
    cut = cut_instances(indexed, request, laid_out, costs, ASKED, context)
    plan = Plan(ASKED, indexed.data, laid_out.settings, costs, cut)
    write_file(folder.plan, plan.to_json().encode())
    return plan


def segments_of(root: Path) -> str:
    """Write the segments of a planned run anew and return their hash."""
    folder = RunFolder(root)
    shutil.rmtree(folder.scratch, ignore_errors=True)
    partition_here(run=str(root), threads=1, report=quiet)
    digest = hashlib.sha256()
    for file in sorted(folder.segments.rglob("*.bin")):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def plan_and_segments(data: Path, root: Path) -> str:
    """Return a hash of all that a plan decides and of its segments; of the file itself nothing is in it."""
    shutil.rmtree(root, ignore_errors=True)
    facts = asdict(make(data, root))
    for name in ("fingerprint", "pins"):
        facts["data"].pop(name)
    return hashlib.sha256((json.dumps(facts) + segments_of(root)).encode()).hexdigest()


def predictions(data: Path, root: Path) -> str:
    """Return a hash of what a model of the whole file predicts, and of what is kept beside it."""
    out = root / "p.parquet"
    predict_file(load_unified_model(root / "multi_instance_training" / "instance_00"), str(data), out, report=quiet)
    table = pq.read_table(out)
    digest = hashlib.sha256(" ".join(table.column_names).encode())
    for column in table.columns:
        digest.update(json.dumps(column.to_pylist(), default=str).encode())
    return digest.hexdigest()


def prepared(place: Path, moment: str) -> Callable[[], str]:
    """Make what a moment needs from the whole file; return what is done with the damaged one."""
    data, root = place / "data", place / moment
    if moment in ("plan", "cut"):
        return lambda: plan_and_segments(data, root)
    shutil.rmtree(root, ignore_errors=True)
    make(data, root, full_hash=moment == "hashed")
    if moment != "predict":
        return lambda: segments_of(root)
    partition_here(run=str(root), threads=1, report=quiet)
    train_instance(run=str(root), instance_id=0, threads=1, report=quiet)
    return lambda: predictions(data, root)


def worker(place: Path, n: int, first: int) -> None:
    """Print a line a try, from the one of a number on: its moment, its outcome, its seconds."""
    file, whole = place / "data" / "a.parquet", (place / "whole").read_bytes()
    footer = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    todo = all_tries(n)[first:]
    for moment in dict.fromkeys(moment for moment, _ in todo):
        file.write_bytes(whole)
        work = prepared(place, moment)
        expected = work()
        for number in (number for other, number in todo if other == moment):
            damaged = bytearray(whole)
            bit = random.Random(number).randrange(8 * len(whole))
            if moment == "cut":
                del damaged[len(whole) * number // CUTS :]
            else:
                damaged[bit // 8] ^= 1 << bit % 8
            file.write_bytes(damaged)
            print(moment, end="\t", flush=True)
            begun = time.monotonic()
            try:
                found = "harmless" if work() == expected else "silent"
            except MiDuckError as error:
                found = "refused" if len(str(error).splitlines()) == 1 else "crash"
            where = " in footer" if bit // 8 >= footer else " in pages"
            print(found + where if found == "silent" else found, time.monotonic() - begun, sep="\t", flush=True)


def all_tries(n: int) -> list[tuple[str, int]]:
    """Return (moment, number) of every try on one file."""
    return [(moment, number) for moment in MOMENTS for number in range(min(n, CUTS) if moment == "cut" else n)]


def outcomes(place: Path, n: int) -> Iterator[tuple[str, str, float]]:
    """Yield (moment, outcome, seconds) of every try; where a process dies, the try it began is a crash, and a new one goes on."""
    first = 0
    while first < len(all_tries(n)):
        command = [sys.executable, __file__, "--worker", str(place), str(n), str(first)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        lines = [line.split("\t") for line in done.stdout.splitlines()]
        if not lines:
            raise RuntimeError(done.stderr)
        for moment, outcome, *seconds in lines:
            yield moment, outcome or "crash", float(seconds[0]) if seconds else 0.0
        first += len(lines)
        if done.returncode != 0:
            print(f"    try {first - 1}: {' '.join(done.stderr.splitlines()[-1:])}", file=sys.stderr)


def main(n: int, writers: Sequence[str] = WRITERS) -> int:
    """Print a line for every writer and moment."""
    print_machine()
    is_sound = True
    with workplace() as folder:
        write_data(folder)
        print(f"{'file':<20} {'damage':<20} tries {' '.join(f'{name:>16}' for name in OUTCOMES)}  tries/s")
        for number, writer in ((WRITERS.index(writer), writer) for writer in writers):
            place = folder / str(number)
            shutil.copyfile(place / "data" / "a.parquet", place / "whole")
            found = list(outcomes(place, n))
            for moment, words in MOMENTS.items():
                counts = Counter(outcome for other, outcome, _ in found if other == moment)
                seconds = sum(seconds for other, _, seconds in found if other == moment)
                print(
                    f"{writer:<20} {words:<20} {counts.total():>5} "
                    + " ".join(f"{counts[name]:>16}" for name in OUTCOMES)
                    + f"  {counts.total() / max(seconds, 1e-9):>7.1f}",
                    flush=True,
                )
                if number == 0 or moment in ("hashed", "cut"):
                    is_sound &= not counts["silent in pages"] and not counts["crash"]
                if moment in ("segments", "hashed", "cut"):
                    is_sound &= not counts["silent in footer"]
    print(f"nothing silent where checksums or hashes are: {is_sound}")
    return 0 if is_sound else 1


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        worker(Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
    else:
        sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 300, sys.argv[2:] or WRITERS))
