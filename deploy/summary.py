#!/usr/bin/env python3
"""The screenful at the end of deploy/run: what was ingested, what it came to, and the proof that it is right.

Everything is asked from the binary, from outside. Exits with 1 when the proof does not hold."""

import argparse
import hashlib
import json
import os
import subprocess
import sys

HEAD = 8191
WEI_PER_ETHER = 10**18


def leat(arguments, binary, data):
    """What the command prints, as bytes; ends this script with its error where it fails."""
    result = subprocess.run([binary, "--data", data, *arguments], stdout=subprocess.PIPE, check=False)
    if result.returncode != 0:
        sys.exit(f"error: leat {' '.join(arguments)} ended with {result.returncode} (its message is above)")
    return result.stdout


def ether(wei):
    """An exact amount for reading: thousands separated, no trailing zeros."""
    sign = "-" if wei < 0 else ""
    whole, rest = divmod(abs(wei), WEI_PER_ETHER)
    fraction = f"{rest:018d}".rstrip("0")
    return f"{sign}{whole:,}" + (f".{fraction}" if fraction else "") + " ETH"


def size_of(folder):
    return sum(os.path.getsize(os.path.join(path, name)) for path, _, names in os.walk(folder) for name in names)


def items(document, key):
    """The list in a listing, which stands under its key or alone."""
    return document[key] if isinstance(document, dict) else document


class Store:
    """A data folder, asked through the command line."""

    def __init__(self, binary, data):
        self.binary = binary
        self.data = data

    def raw(self, *arguments):
        return leat(arguments, self.binary, self.data)

    def json(self, *arguments):
        return json.loads(self.raw(*arguments, "--json"))

    def topics(self):
        """Events by topic."""
        return {topic["topic"]: int(topic["events"]) for topic in items(self.json("topics"), "topics")}

    def head(self):
        blocks = items(self.json("query", "blocks", "--limit", "1"), "blocks")
        return blocks[0] if blocks else {}

    def balances(self, *arguments):
        """The state as CSV bytes, and as a dict."""
        text = self.raw("query", "balances", *arguments, "--format", "csv")
        rows = [line.split(",") for line in text.decode("utf-8").splitlines()[1:]]
        return text, {address: int(wei) for address, wei in rows}


def published_hash(sample):
    """SHA-256 of the published non-zero balances at HEAD."""
    with open(os.path.join(sample, "mainnet_genesis", f"balances_at_{HEAD}.sha256"), encoding="utf-8") as lines:
        for line in lines:
            digest, name = line.split()
            if name == f"balances_at_{HEAD}.non_zero.csv":
                return digest
    sys.exit("error: the sample has no hash of the published state (git checkout deploy/sample)")


def describe(title, store, balances):
    """The lines that both data folders share."""
    head = store.head()
    topics = store.topics()
    print(title)
    print(f"  data folder    {store.data} ({size_of(store.data) / 2**20:.1f} MiB)")
    print(f"  head           block {int(head.get('number', 0)):,}, {head.get('hash', '?')}")
    print(f"  events         {sum(topics.values()):,}")
    for topic in sorted(topics):
        print(f"                 {topics[topic]:>9,}  {topic}")
    print(f"  accounts       {len(balances):,} with a balance other than zero")
    richest = sorted(balances.items(), key=lambda item: (-item[1], item[0]))[:3]
    for rank, (address, wei) in enumerate(richest):
        print(f"  {'richest' if rank == 0 else '':<15}{address}  {ether(wei)}")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--leat", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--excerpt", required=True)
    parser.add_argument("--sample", required=True)
    parser.add_argument("--ingest-us", type=int, default=0, help="how long the ingest of --data took, for the summary")
    arguments = parser.parse_args()

    exact = Store(arguments.leat, arguments.data)
    text, balances = exact.balances("--at-block", str(HEAD))
    print()
    describe(f"Ethereum, blocks 0..{HEAD}: exact, from genesis", exact, balances)
    if arguments.ingest_us > 0:
        print(f"  ingest took    {arguments.ingest_us / 1e6:.2f} s (next to nothing where it was done before)")

    checks = []
    supply = int(exact.json("query", "supply", "--at-block", str(HEAD))["supply_wei"])
    print(f"  supply         {ether(supply)}")
    checks.append((supply == sum(balances.values()), "supply: what was issued is what the accounts hold, to the wei"))
    digest = hashlib.sha256(text).hexdigest()
    checks.append((digest == published_hash(arguments.sample),
                   f"state at block {HEAD} equals the published one, byte for byte (sha256 {digest[:16]}…)"))
    root = exact.json("verify", "--state-root", "--at-block", str(HEAD))
    checks.append((root.get("ok") is True,
                   f"state root computed from the balances is the header's ({root.get('state_root', {}).get('computed', '?')[:18]}…)"))
    checks.append((exact.json("verify").get("ok") is True,
                   "every record of the log has its checksum and its Merkle root"))

    print()
    excerpt = Store(arguments.leat, arguments.excerpt)
    describe("Ethereum, 19,999 transactions of 2017-03: an excerpt, value only, signed net changes", excerpt,
             excerpt.balances()[1])

    print("\nProof")
    for holds, what in checks:
        print(f"  {'holds ' if holds else 'FAILED'}  {what}")
    print()
    if not all(holds for holds, _ in checks):
        sys.exit("error: the proof does not hold (keep the data folder, and report this with the output above)")


if __name__ == "__main__":
    main()
