"""Run a campaign: ``python -m tests.fuzz TARGET... --count N --seed S``."""

import argparse
import os
import sys
from pathlib import Path

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")  # forked processes share no threads

from tests.fuzz import campaign  # noqa: E402


def main() -> int:
    """Return 1 where there are findings."""
    folder = Path(__file__).parent / "targets"
    names = sorted(p.stem for p in folder.glob("*.py") if p.stem != "__init__")
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("targets", nargs="+", choices=[*names, "all"], metavar="TARGET")
    parser.add_argument("--count", type=int, default=1000, help="mutants of each target")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first mutant")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument(
        "--seconds", type=int, default=campaign.SECONDS, help="processor time of one input"
    )
    parser.add_argument("--keep", type=Path, help="folder for mutants that are findings")
    parser.add_argument("--sentences", type=int, default=0, help="print the N most frequent")
    given = parser.parse_args()
    found = 0
    for name in names if "all" in given.targets else given.targets:
        result = campaign.run(
            name, given.count, given.seed, first=given.first, jobs=given.jobs,
            keep=given.keep and given.keep / name, seconds=given.seconds,
        )  # fmt: skip
        found += len(result.findings)
        print(campaign.report(name, given.count, given.seed, result))
        for sentence, times in result.sentences.most_common(given.sentences):
            print(f"  {times:5} x {sentence}")
    return int(found > 0)


if __name__ == "__main__":
    sys.exit(main())
