#!/usr/bin/env python3
"""Real blocks through the real pipeline, compared with postings and balances computed independently of it.

usage: run_real_blocks.py --leat BIN --shared DIR

Ingests mainnet_mev_blocks and mainnet_fork_blocks (on their own opening balances) of DIR as excerpts into temporary
data folders. Exits with 77, and says so, where DIR is missing; with 1 at the first difference.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
SKIPPED = 77
CHAIN = "eip155:1"


def run(*command):
    """Runs it with its output shown; a failure ends the test."""
    sys.stdout.flush()
    result = subprocess.run(command, check=False)
    if result.returncode != 0:
        sys.exit(f"FAILED: `{' '.join(command)}` ended with {result.returncode}")


def real_blocks(leat, dataset, source, folder):
    """One data set: expectation, ingest, comparison; and the comparison of balances again after a rebuild."""
    started = time.monotonic()
    print(f"--- {os.path.basename(source)}")
    data = os.path.join(folder, f"data-{dataset}")
    postings = os.path.join(folder, f"{dataset}.jsonl")
    balances = os.path.join(folder, f"{dataset}.csv")
    opening = os.path.join(folder, f"{dataset}.opening.csv")
    expect = [sys.executable, os.path.join(HERE, "expected_postings.py"), "--dataset", dataset, "--data", source]
    ingest = [leat, "--data", data, "ingest", "ethereum-etl", source, "--chain", CHAIN, "--excerpt"]
    compare = [sys.executable, os.path.join(HERE, "compare_postings.py"), "--leat", leat, "--data", data,
               "--postings", postings, "--balances", balances]
    if dataset == "fork":
        run(*expect, "--write-opening", opening)
        expect += ["--opening", opening]
        ingest += ["--opening-balances", opening]
        compare += ["--opening", opening]
    run(*expect, "--postings", postings, "--balances", balances)
    run(*ingest)
    run(*compare)
    run(leat, "--data", data, "project", "rebuild", "balances", "--compare")
    run(*compare)
    run(*ingest)  # once more: nothing may come twice
    run(*compare)
    print(f"--- {os.path.basename(source)}: as expected, after a rebuild and after a second ingest too "
          f"({time.monotonic() - started:.1f} s)")


def main():
    parser = argparse.ArgumentParser(description="real blocks, compared with independently computed postings")
    parser.add_argument("--leat", required=True, metavar="BIN")
    parser.add_argument("--shared", required=True, metavar="DIR", help="folder of the real data")
    arguments = parser.parse_args()
    sources = {"mev": os.path.join(arguments.shared, "mainnet_mev_blocks"),
               "fork": os.path.join(arguments.shared, "mainnet_fork_blocks")}
    missing = [source for source in sources.values() if not os.path.isdir(source)]
    if missing:
        print(f"SKIPPED: the real data is not here: {', '.join(missing)}", flush=True)
        sys.exit(SKIPPED)
    with tempfile.TemporaryDirectory(prefix="leat-real-blocks-") as folder:
        for dataset, source in sources.items():
            real_blocks(os.path.abspath(arguments.leat), dataset, source, folder)


if __name__ == "__main__":
    main()
