"""Benchmarks: `python -m benchmarks [--quick] [NAME …]`, all of them unless named.

Prints one JSON object a line. Without --quick each replaces its line in benchmarks/results.json,
from which the tables and plots of docs/performance.md are written; build/bench.json has those of
this run alone.
"""

import argparse
import json

from benchmarks import (
    actions,
    burst,
    console,
    crashes,
    history,
    lists,
    loop_lag,
    memory,
    observation,
    observe,
    odd,
    scrape,
    shell,
    vms,
)
from benchmarks.measuring import Figure
from benchmarks.tables import keep, write_fresh, write_page

BENCHES = {
    "actions": actions.bench,
    "burst": burst.bench,
    "shell": shell.bench,
    "console": console.bench,
    "vms": vms.bench,
    "scrape_10k": scrape.bench,
    "observe": observe.bench,
    "memory": memory.bench,
    "loop_lag": loop_lag.bench,
    "history": history.bench,
    "lists": lists.bench,
    "observation": observation.bench,
    "odd": odd.bench,
    "crashes": crashes.bench,
    "jobs": crashes.bench_jobs,
}


def main() -> None:
    """Run the benchmarks that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHES)}")
    parser.add_argument("--quick", action="store_true", help="a trial: small, and nothing is kept")
    given = parser.parse_args()
    if unknown := set(given.names) - set(BENCHES):
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}")
    fresh: list[Figure] = []
    for name, bench in BENCHES.items():
        if not given.names or name in given.names:
            for figure in bench(quick=given.quick):
                print(json.dumps(figure), flush=True)
                if not given.quick:
                    keep(figure)
                    fresh.append(figure)
                    write_fresh(fresh)
    write_page()


if __name__ == "__main__":
    main()
