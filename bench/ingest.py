#!/usr/bin/env python3
"""From ethereum-etl files to queryable balances, everything durable; then a restart, and every balance checked.

usage: ingest.py --leat BIN [--transfers 10000000] [--accounts 1000000] [--seed 1] [--work DIR] [--keep]

An entry is one leg of a posting as the balances keep it: account, amount, running balance. Every transfer has four (value
out and in, fee out and in), every grant and reward two. The clock runs from the start of `leat ingest` to its end, when all
is answered and flushed.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))


def size_of(folder):
    return sum(os.path.getsize(os.path.join(path, name)) for path, _, names in os.walk(folder) for name in names)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--leat", required=True)
    parser.add_argument("--transfers", type=int, default=10_000_000)
    parser.add_argument("--accounts", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--memory", default="1GiB")
    parser.add_argument("--work", help="folder for files and data; default: a temporary one")
    parser.add_argument("--keep", action="store_true", help="leave the files where they are")
    arguments = parser.parse_args()
    work = arguments.work or tempfile.mkdtemp(prefix="leat-bench-ingest-")
    files = os.path.join(work, f"transfers-{arguments.transfers}-{arguments.accounts}-{arguments.seed}")
    data = os.path.join(work, "data")
    shutil.rmtree(data, ignore_errors=True)
    try:
        if not os.path.isdir(files):
            subprocess.run([sys.executable, os.path.join(HERE, "generate_transfers.py"),
                            "--transfers", str(arguments.transfers), "--accounts", str(arguments.accounts),
                            "--seed", str(arguments.seed), files], check=True)
        inputs = size_of(files)
        print(f"seed {arguments.seed}: {arguments.transfers:,} transfers (Zipf) over {arguments.accounts:,} accounts, "
              f"{inputs / 2**30:.2f} GiB of CSV", flush=True)

        started = time.monotonic()
        ingest = subprocess.run([arguments.leat, "--data", data, "ingest", "ethereum-etl", files, "--chain",
                                 "eip155:99", "--memory", arguments.memory, "--json"],
                                check=True, stdout=subprocess.PIPE, text=True)
        elapsed = time.monotonic() - started
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        report = json.loads(ingest.stdout)
        # Grants and rewards are the traces; fees and values are the transactions.
        entries = 4 * report["transactions"] + 2 * report["traces"]

        started = time.monotonic()
        rows = subprocess.run([arguments.leat, "--data", data, "query", "balances", "--format", "csv"], check=True,
                              stdout=subprocess.PIPE).stdout
        restart = time.monotonic() - started
        with open(os.path.join(files, "expected_balances.csv"), "rb") as file:
            same = file.read() == rows
        stored = {name: size_of(os.path.join(data, "shards", name)) for name in sorted(os.listdir(f"{data}/shards"))}
        print(f"ingested in {elapsed:.1f} s: {entries:,} entries, {entries / elapsed:,.0f} entries/s (target 150,000), "
              f"{report['transactions'] / elapsed:,.0f} transfers/s")
        print(f"CPU {usage.ru_utime + usage.ru_stime:.0f} s ({(usage.ru_utime + usage.ru_stime) / elapsed:.2f} cores), "
              f"peak memory {usage.ru_maxrss / 2**10:,.0f} MiB")
        for name, size in stored.items():
            print(f"  {name}: {size / 2**20:,.0f} MiB, {size / entries:.1f} bytes per entry")
        print(f"  together {sum(stored.values()) / entries:.1f} bytes per entry")
        print(f"restarted and read all {rows.count(bytes([10])) - 1:,} balances in {restart:.1f} s: "
              f"{'as expected' if same else 'WRONG'}")
        if not same:
            sys.exit(1)
    finally:
        if not arguments.keep:
            shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    main()
