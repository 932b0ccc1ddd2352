#!/usr/bin/env python3
"""Derives the bundled samples from a folder of real chain data (PROVENANCE.md says where that comes from).

usage: deploy/sample/derive.py SOURCE [--out FOLDER]

Reads SOURCE/mainnet_genesis and SOURCE/mainnet_2017_03 and writes the folders of the same names beside this script,
in the layout of ethereum-etl. The same source gives the same bytes on every run.
"""

import argparse
import csv
import gzip
import hashlib
import io
import os
import sys

LAST_BLOCK = 8191
TRANSACTIONS_FILE = "transactions_03300000_03399999_small.csv.gz"

TRACE_COLUMNS = [
    "block_number", "transaction_hash", "transaction_index", "from_address", "to_address", "value", "input", "output",
    "trace_type", "call_type", "reward_type", "gas", "gas_used", "subtraces", "trace_address", "error", "status",
    "trace_id",
]
TRANSACTION_COLUMNS = [
    "hash", "nonce", "block_hash", "block_number", "transaction_index", "from_address", "to_address", "value", "gas",
    "gas_price", "block_timestamp", "transaction_type",
]


def read_rows(path):
    opener = gzip.open if path.endswith(".gz") else open
    with opener(path, "rt", newline="", encoding="utf-8") as lines:
        yield from csv.DictReader(lines)


def write_rows(path, columns, rows):
    """Writes the rows as gzipped CSV without the time and name that gzip would put into its header."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    count = 0
    for row in rows:
        writer.writerow(row)
        count += 1
    with open(path, "wb") as raw:
        with gzip.GzipFile(filename="", mode="wb", compresslevel=9, fileobj=raw, mtime=0) as packed:
            packed.write(text.getvalue().encode("utf-8"))
    print(f"{path}: {count} rows, {os.path.getsize(path)} bytes")


def block_traces(block_number, trace_type, grants):
    """The trace rows of the grants (reward type, address, value) of one block, in their order. They are numbered as
    ethereum-etl numbers traces without a transaction: by reward type, address and value."""
    order = sorted(range(len(grants)), key=lambda index: (*grants[index][:2], int(grants[index][2])))
    numbers = {index: number for number, index in enumerate(order)}
    for index, (reward_type, address, value) in enumerate(grants):
        yield {
            "block_number": block_number, "to_address": address, "value": value, "trace_type": trace_type,
            "reward_type": reward_type, "subtraces": 0, "status": 1,
            "trace_id": f"{trace_type}_{block_number}_{numbers[index]}",
        }


def genesis_traces(source):
    """The genesis grants at block 0, then the rewards, block by block."""
    alloc = [("", row["address"], row["value"]) for row in read_rows(os.path.join(source, "genesis_alloc.csv"))]
    yield from block_traces(0, "genesis", alloc)
    rewards = {}
    for row in read_rows(os.path.join(source, "rewards.csv")):
        rewards.setdefault(int(row["block_number"]), []).append((row["reward_type"], row["address"], row["value"]))
    if sorted(rewards) != list(range(1, LAST_BLOCK + 1)):
        sys.exit(f"error: rewards.csv does not hold exactly the blocks 1..{LAST_BLOCK}")
    for block_number in sorted(rewards):
        yield from block_traces(block_number, "reward", rewards[block_number])


def fold(traces):
    """The state as published, and as `leat query balances` prints it: without the accounts that hold nothing (two of
    the genesis grants are of nothing; such an account is part of the state root all the same)."""
    balances = {}
    for row in traces:
        balances[row["to_address"]] = balances.get(row["to_address"], 0) + int(row["value"])
    header = "address,balance_wei\n"
    lines = [(balances[address], f"{address},{balances[address]}\n") for address in sorted(balances)]
    state = header + "".join(line for _, line in lines)
    non_zero = header + "".join(line for balance, line in lines if balance)
    return state.encode("utf-8"), non_zero.encode("utf-8")


def derive_genesis(source, out):
    os.makedirs(out, exist_ok=True)
    blocks = list(read_rows(os.path.join(source, "blocks.csv.gz")))
    if [int(block["number"]) for block in blocks] != list(range(LAST_BLOCK + 1)):
        sys.exit(f"error: blocks.csv.gz does not hold exactly the blocks 0..{LAST_BLOCK}")
    write_rows(os.path.join(out, "blocks.csv.gz"), list(blocks[0]), blocks)

    name = f"balances_at_{LAST_BLOCK}"
    with open(os.path.join(source, name + ".csv"), "rb") as file:
        published = file.read()
    traces = list(genesis_traces(source))
    state, non_zero = fold(traces)
    if state != published:
        sys.exit(f"error: grants and rewards do not fold into {name}.csv")
    write_rows(os.path.join(out, "traces.csv.gz"), TRACE_COLUMNS, traces)
    with open(os.path.join(out, name + ".sha256"), "w", encoding="utf-8") as file:
        file.write(f"{hashlib.sha256(published).hexdigest()}  {name}.csv\n")
        file.write(f"{hashlib.sha256(non_zero).hexdigest()}  {name}.non_zero.csv\n")


def derive_transactions(source, out):
    os.makedirs(out, exist_ok=True)
    csv.field_size_limit(1 << 26)
    write_rows(os.path.join(out, "transactions.csv.gz"), TRANSACTION_COLUMNS,
               read_rows(os.path.join(source, TRANSACTIONS_FILE)))


def main():
    parser = argparse.ArgumentParser(description="derives the bundled samples from a folder of real chain data")
    parser.add_argument("source", help="folder with mainnet_genesis and mainnet_2017_03")
    parser.add_argument("--out", default=os.path.dirname(os.path.abspath(__file__)), help="default: beside this script")
    arguments = parser.parse_args()
    for name in ("mainnet_genesis", "mainnet_2017_03"):
        if not os.path.isdir(os.path.join(arguments.source, name)):
            sys.exit(f"error: {arguments.source} has no folder {name}")
    for name, derive in (("mainnet_genesis", derive_genesis), ("mainnet_2017_03", derive_transactions)):
        derive(os.path.join(arguments.source, name), os.path.join(arguments.out, name))


if __name__ == "__main__":
    main()
