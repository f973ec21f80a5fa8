"""What do kills, full disks, damaged files and odd machines do to a run? Counts: survived, lost, silent.

Every try begins with the same tiny run, does something to it, repeats the same command until it ends well, and compares
every file that holds no times with those of an undisturbed run. The letters and numbers are those of the fault list; a try
is named by its number and always draws the same. State stays in a JSON file, so a stopped chaos goes on.

    python benchmarks/chaos.py --fast          a few tries of each, a minute and a half
    python benchmarks/chaos.py F1 F17          these, in full, in hours
    python benchmarks/chaos.py --table         what was counted so far
"""

import argparse
import collections
import random
import sys
import time
import traceback
from pathlib import Path

from faults import damage, kills, scene, storage, surroundings, warm
from harness import print_machine

from mi_duck.atomic_files import write_json

FAULTS = kills.FAULTS | storage.FAULTS | damage.FAULTS | surroundings.FAULTS
GOOD = ("survived", "harmless", "detected", "skipped")
BAD = ("lost", "silent", "litter", "unclear", "broken", "crash")


def main() -> int:
    """Run the faults that are asked for, print the table, return 1 if any fault had a bad end."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("faults", nargs="*", metavar="FAULT", help=f"some of {', '.join(FAULTS)}; by default all")
    parser.add_argument("--fast", action="store_true", help="a few tries of each fault")
    parser.add_argument("--cold", action="store_true", help="real processes instead of forks: five times slower")
    parser.add_argument("--table", action="store_true", help="print what was counted and leave")
    parser.add_argument("--folder", type=Path, default=Path("chaos"), help="where all lies")
    parser.add_argument("--seconds", type=float, default=1e9, help="begin no try after this many seconds")
    asked = parser.parse_args()
    unknown = sorted(set(asked.faults) - set(FAULTS))
    if unknown:
        parser.error(f"no fault {', '.join(unknown)}")
    asked.folder.mkdir(parents=True, exist_ok=True)
    folder = asked.folder.resolve()
    state = scene.read_state(folder / "state.json")
    if not asked.table:
        try_all(
            asked.faults or list(FAULTS), folder, state, is_fast=asked.fast, is_cold=asked.cold, seconds=asked.seconds
        )
    print_machine()
    return table(state)


def try_all(faults: list[str], folder: Path, state: dict, *, is_fast: bool, is_cold: bool, seconds: float) -> None:  # type: ignore[type-arg]
    """Do the tries that are not in the state yet."""
    end = time.monotonic() + seconds
    warm.import_everything()
    stage = scene.Scene(folder, is_cold=is_cold).prepare()
    before = scene.snapshot(folder / "data")
    for fault in faults:
        cases, attempt = FAULTS[fault]
        counts = state.setdefault(fault, {})
        for case in cases(stage, is_fast):
            if case in counts:
                continue
            if time.monotonic() > end:
                break
            try:
                verdict = attempt(stage, case, random.Random(f"{fault}:{case}"))
            except (OSError, ValueError, KeyError, IndexError, SystemExit):
                verdict = scene.Verdict("broken", f"the harness: {traceback.format_exc()[-500:]}")
            if scene.snapshot(folder / "data") != before:
                verdict = scene.Verdict("broken", f"the dataset was changed ({verdict})")
                before = scene.snapshot(folder / "data")
            counts[case] = [verdict.kind, verdict.note]
            write_json(folder / "state.json", state)
            if verdict.kind in BAD:
                print(f"{fault} {case}: {verdict.kind}: {verdict.note}", flush=True)


def table(state: dict) -> int:  # type: ignore[type-arg]
    """Print a line a fault."""
    columns = ("tries", *GOOD, *BAD)
    print(f"\n{'fault':<6}" + "".join(f"{name:>10}" for name in columns))
    bad = 0
    for fault in FAULTS:
        counts = collections.Counter(kind for kind, _ in state.get(fault, {}).values())
        if counts:
            bad += sum(counts[name] for name in BAD)
            print(f"{fault:<6}{counts.total():>10}" + "".join(f"{counts[name]:>10}" for name in columns[1:]))
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
