#!/usr/bin/env python3
"""The postings and balances that Leat's ledger must come to on real blocks, computed from the raw rows alone.

This shares no code with the product and reads none of its output. Two data sets:

  fork   mainnet_fork_blocks: headers, transactions of types 0..3 and withdrawals, no receipts and no traces. So: the
         value of every transaction, burnt blob fees, and withdrawals; no gas (what was used is not known), no rewards.
         Where raw RPC bodies are there, the rows are compared with them, and the bodies with their own hashes.
  mev    mainnet_mev_blocks: receipts and traces, no headers. So: gas fees, every frame that moves value, and rewards.

Writes --postings as JSON lines, in the order in which they are due: blocks ascending; in a block the transactions by
index, then rewards in the order of their rows, then withdrawals in the order of theirs:
  {"block": N, "transaction": "0x…" or null, "legs": [["0x… or system:…", "signed wei", "kind"], …]}
and --balances as CSV address,balance_wei: the signed net changes other than zero, sorted by address, of addresses only.
"""

import argparse
import collections
import csv
import glob
import gzip
import json
import os
import sys

import keccak

ISSUANCE = "system:issuance"
BURN = "system:burn"

WEI_PER_GWEI = 10**9
BLOB_GAS = 131072
BLOB_BASE_FEE_MIN = 1
BLOB_BASE_FEE_UPDATE_FRACTION = 3338477  # of Cancun, which all blob transactions here belong to
CANCUN_TIMESTAMP_S = 1710338135
CALLDATA_LENGTH_MAX = 1 << 26

Posting = collections.namedtuple("Posting", "block transaction legs")


class Mismatch(Exception):
    """The raw rows contradict each other, or the raw RPC bodies."""


def check(condition, *what):
    if not condition:
        raise Mismatch(" ".join(str(part) for part in what))


def read_rows(path):
    csv.field_size_limit(CALLDATA_LENGTH_MAX)
    opener = gzip.open if path.endswith(".gz") else open
    with opener(path, "rt", newline="", encoding="utf-8") as lines:
        yield from csv.DictReader(lines)


def number(text):
    """A decimal number; nothing is nought."""
    return int(text) if text else 0


class Legs:
    """The legs of one posting. An amount of nothing makes none."""

    def __init__(self):
        self.legs = []

    def move(self, source, target, amount, kind):
        check(amount >= 0, "a negative amount:", amount, kind)
        if amount:
            self.legs.append((source, -amount, kind))
            self.legs.append((target, amount, kind))

    def post(self, postings, block, transaction):
        assert sum(amount for _, amount, _ in self.legs) == 0
        if self.legs:
            postings.append(Posting(block, transaction, self.legs))


# --- mainnet_fork_blocks


def fake_exponential(factor, numerator, denominator):
    """EIP-4844: factor * e ** (numerator / denominator), in integers."""
    index = 1
    output = 0
    accumulator = factor * denominator
    while accumulator > 0:
        output += accumulator
        accumulator = accumulator * numerator // (denominator * index)
        index += 1
    return output // denominator


def blob_base_fee(excess_blob_gas):
    return fake_exponential(BLOB_BASE_FEE_MIN, excess_blob_gas, BLOB_BASE_FEE_UPDATE_FRACTION)


def fork_postings(folder):
    headers = {}
    for row in read_rows(os.path.join(folder, "blocks.csv")):
        headers[int(row["number"])] = row
    transactions = collections.defaultdict(list)
    for row in read_rows(os.path.join(folder, "transactions.csv.gz")):
        transactions[int(row["block_number"])].append(row)
    withdrawals = collections.defaultdict(list)
    for row in read_rows(os.path.join(folder, "withdrawals.csv")):
        withdrawals[int(row["block_number"])].append(row)
    check(set(transactions) <= set(headers), "transactions of a block without a header")
    check(set(withdrawals) <= set(headers), "withdrawals of a block without a header")

    postings = []
    for block in sorted(headers):
        rows = sorted(transactions[block], key=lambda row: int(row["transaction_index"]))
        check([int(row["transaction_index"]) for row in rows] == list(range(int(headers[block]["transaction_count"]))),
              "block", block, "does not have the transactions that its header counts")
        for row in rows:
            check(row["block_hash"] == headers[block]["hash"], row["hash"], "names another block hash than its header")
            legs = Legs()
            target = row["to_address"] or keccak.created_address(row["from_address"], int(row["nonce"]))
            legs.move(row["from_address"], target, int(row["value"]), "transfer")
            if int(row["transaction_type"]) == 3:
                blobs = int(row["blob_count"])
                check(blobs > 0, row["hash"], "is of type 3 and has no blobs")
                price = blob_base_fee(int(headers[block]["excess_blob_gas"]))
                legs.move(row["from_address"], BURN, BLOB_GAS * blobs * price, "blob_fee")
            legs.post(postings, block, row["hash"])
        for row in withdrawals[block]:
            legs = Legs()
            legs.move(ISSUANCE, row["address"], int(row["amount_gwei"]) * WEI_PER_GWEI, "withdrawal")
            legs.post(postings, block, None)
    compare_with_raw_bodies(folder, headers, transactions, withdrawals)
    return postings


def quantity(text):
    return int(text, 16)


def octets(text):
    return bytes.fromhex(text[2:])


def hash_of_body(body):
    """The hash of a transaction, from its fields: no field of a body can be wrong without it."""
    kind = quantity(body["type"])
    to = octets(body["to"]) if body.get("to") else b""
    signature = [quantity(body["v"]), quantity(body["r"]), quantity(body["s"])]
    rest = [quantity(body["gas"]), to, quantity(body["value"]), octets(body["input"])]
    if kind == 0:
        return keccak.keccak256(keccak.rlp([quantity(body["nonce"]), quantity(body["gasPrice"]), *rest, *signature]))
    access_list = [[octets(entry["address"]), [octets(key) for key in entry["storageKeys"]]]
                   for entry in body.get("accessList") or []]
    head = [quantity(body["chainId"]), quantity(body["nonce"])]
    if kind == 1:
        fields = [*head, quantity(body["gasPrice"]), *rest, access_list, *signature]
    elif kind == 2:
        prices = [quantity(body["maxPriorityFeePerGas"]), quantity(body["maxFeePerGas"])]
        fields = [*head, *prices, *rest, access_list, *signature]
    else:
        raise Mismatch(f"{body['hash']}: a body of type {kind} is not expected here")
    return keccak.keccak256(bytes([kind]) + keccak.rlp(fields))


def compare_with_raw_bodies(folder, headers, transactions, withdrawals):
    """Every row that a raw RPC body knows too has to say the same."""
    paths = sorted(glob.glob(os.path.join(folder, "raw_rpc", "*.json.gz")))
    check(paths, "no raw RPC bodies in", folder)
    compared_transactions = compared_withdrawals = 0
    for path in paths:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            body = json.load(file)
        body = body.get("result", body)
        block = quantity(body["number"])
        header = headers[block]
        for ours, theirs in (("hash", "hash"), ("parent_hash", "parentHash"), ("miner", "miner"),
                             ("state_root", "stateRoot")):
            check(header[ours] == body[theirs].lower(), "block", block, ours, header[ours], "but body", body[theirs])
        for ours, theirs in (("timestamp", "timestamp"), ("gas_used", "gasUsed"), ("base_fee_per_gas", "baseFeePerGas"),
                             ("excess_blob_gas", "excessBlobGas"), ("blob_gas_used", "blobGasUsed"),
                             ("difficulty", "difficulty")):
            known = quantity(body[theirs]) if theirs in body else None
            stated = int(header[ours]) if header[ours] else None
            check(stated == known, "block", block, ours, stated, "but body", known)
        rows = {row["hash"]: row for row in transactions[block]}
        check(set(rows) == {item["hash"] for item in body["transactions"]}, "block", block, "transaction hashes differ")
        for item in body["transactions"]:
            row = rows[item["hash"]]
            check("0x" + hash_of_body(item).hex() == item["hash"], item["hash"], "is not the hash of its own body")
            stated = (row["from_address"], row["to_address"], int(row["value"]), int(row["transaction_type"]),
                      int(row["nonce"]), int(row["transaction_index"]))
            known = (item["from"].lower(), (item["to"] or "").lower(), quantity(item["value"]), quantity(item["type"]),
                     quantity(item["nonce"]), quantity(item["transactionIndex"]))
            check(stated == known, item["hash"], "row", stated, "but body", known)
            compared_transactions += 1
        stated = [(int(row["index"]), int(row["validator_index"]), row["address"], int(row["amount_gwei"]))
                  for row in withdrawals[block]]
        known = [(quantity(item["index"]), quantity(item["validatorIndex"]), item["address"].lower(),
                  quantity(item["amount"])) for item in body.get("withdrawals") or []]
        check(stated == known, "block", block, "withdrawals differ")
        compared_withdrawals += len(known)
    print(f"raw RPC bodies: {len(paths)} blocks, {compared_transactions} transactions (hashes recomputed) and "
          f"{compared_withdrawals} withdrawals agree with the rows")


def write_opening(folder, path):
    """Each account's balance at its first appearance. What an account held before later blocks differs from it by what
    happened in blocks that are not there: the ledger carries on from the first."""
    first = {}
    for row in read_rows(os.path.join(folder, "pre_state_accounts.csv.gz")):
        block, address = int(row["block_number"]), row["address"]
        if address not in first or block < first[address][0]:
            first[address] = (block, int(row["balance_wei"]))
        elif block == first[address][0]:
            check(first[address][1] == int(row["balance_wei"]), address, "has two balances before block", block)
    write_balances(path, {address: balance for address, (_, balance) in first.items()}, zeros=True)
    print(f"{path}: {len(first)} opening balances")


# --- mainnet_mev_blocks


def trace_address(text):
    return tuple(int(part) for part in text.split("_")) if text else ()


def failed_frames(frames):
    """The trace addresses of the frames that are failed, by themselves or by an ancestor."""
    own = {trace_address(row["trace_address"]) for row in frames if row["error"]}
    return {address for address in (trace_address(row["trace_address"]) for row in frames)
            if any(address[:length] in own for length in range(len(address) + 1))}


def move_frame(legs, row, root):
    """The value that a frame which did not fail moves."""
    source, target, value = row["from_address"], row["to_address"], number(row["value"])
    if row["trace_type"] == "suicide":
        # Before Cancun (all these blocks are) what is bequeathed to oneself is gone.
        legs.move(source, BURN if source == target else target, value, "selfdestruct")
    elif row["trace_type"] == "create" or (row["trace_type"] == "call" and row["call_type"] == "call"):
        check(value == 0 or target, "a frame without a target moves value in", row["transaction_hash"])
        legs.move(source, target, value, "transfer" if root else "internal")
    else:
        # delegatecall shows its caller's value; neither it nor callcode or staticcall moves any.
        check(row["trace_type"] == "call" and row["call_type"] in ("delegatecall", "callcode", "staticcall"),
              "unknown frame", row["trace_type"], row["call_type"])


def mev_postings(folder):
    receipts = collections.defaultdict(dict)
    for row in read_rows(os.path.join(folder, "receipts.csv.gz")):
        check(row["transaction_hash"] not in receipts[int(row["block_number"])], row["transaction_hash"], "twice")
        receipts[int(row["block_number"])][row["transaction_hash"]] = row
    frames = collections.defaultdict(lambda: collections.defaultdict(list))
    rewards = collections.defaultdict(list)
    for row in read_rows(os.path.join(folder, "traces.csv.gz")):
        if row["trace_type"] == "reward":
            rewards[int(row["block_number"])].append(row)
        else:
            frames[int(row["block_number"])][row["transaction_hash"]].append(row)

    postings = []
    for block in sorted(set(receipts) | set(frames) | set(rewards)):
        check(set(receipts[block]) == set(frames[block]), "block", block, "has receipts or traces without the other")
        for receipt in sorted(receipts[block].values(), key=lambda row: int(row["transaction_index"])):
            transaction = receipt["transaction_hash"]
            rows = sorted(frames[block][transaction], key=lambda row: trace_address(row["trace_address"]))
            check(trace_address(rows[0]["trace_address"]) == (), transaction, "has no root trace")
            check(all(row["transaction_index"] == receipt["transaction_index"] for row in rows), transaction,
                  "has another index in its traces than in its receipt")
            legs = Legs()
            failed = failed_frames(rows)
            for row in rows:
                address = trace_address(row["trace_address"])
                if address not in failed:
                    move_frame(legs, row, root=address == ())
            sender = rows[0]["from_address"]
            gas_used, price = int(receipt["gas_used"]), int(receipt["effective_gas_price"])
            base_fee = number(receipt["base_fee_per_gas"])
            legs.move(sender, receipt["miner"].lower(), gas_used * (price - base_fee), "fee")
            legs.move(sender, BURN, gas_used * base_fee, "base_fee")
            legs.post(postings, block, transaction)
        for row in rewards[block]:
            kind = {"block": "reward", "uncle": "uncle_reward"}[row["reward_type"]]
            legs = Legs()
            legs.move(ISSUANCE, row["to_address"], int(row["value"]), kind)
            legs.post(postings, block, None)
    return postings


# --- output


def net_changes(postings):
    balances = collections.defaultdict(int)
    for posting in postings:
        for account, amount, _ in posting.legs:
            if not account.startswith("system:"):
                balances[account] += amount
    return balances


def write_postings(path, postings):
    with open(path, "w", encoding="utf-8") as file:
        for posting in postings:
            file.write(json.dumps({
                "block": posting.block, "transaction": posting.transaction,
                "legs": [[account, str(amount), kind] for account, amount, kind in posting.legs],
            }, separators=(",", ":")) + "\n")


def write_balances(path, balances, zeros=False):
    with open(path, "w", encoding="utf-8", newline="") as file:
        file.write("address,balance_wei\n")
        for address in sorted(balances):
            if zeros or balances[address]:
                file.write(f"{address},{balances[address]}\n")


def describe(postings):
    kinds = collections.Counter(kind for posting in postings for _, amount, kind in posting.legs if amount < 0)
    print(f"{len(postings)} postings of {len({posting.block for posting in postings})} blocks, "
          f"{sum(len(posting.legs) for posting in postings)} legs; movements by kind: "
          + ", ".join(f"{kind} {count}" for kind, count in sorted(kinds.items())))


def main():
    parser = argparse.ArgumentParser(description="expected postings and balances on real blocks, from the raw rows")
    parser.add_argument("--dataset", required=True, choices=("fork", "mev"))
    parser.add_argument("--data", required=True, metavar="DIR", help="folder of the data set")
    parser.add_argument("--postings", metavar="OUT.jsonl")
    parser.add_argument("--balances", metavar="OUT.csv")
    parser.add_argument("--opening", metavar="FILE.csv", help="added to --balances")
    parser.add_argument("--write-opening", metavar="OUT.csv", help="(fork) first known balance of every account")
    arguments = parser.parse_args()
    if arguments.write_opening and arguments.dataset != "fork":
        parser.error("--write-opening goes with --dataset fork")

    keccak.self_test()
    try:
        if arguments.write_opening:
            write_opening(arguments.data, arguments.write_opening)
        postings = (fork_postings if arguments.dataset == "fork" else mev_postings)(arguments.data)
    except Mismatch as mismatch:
        sys.exit(f"error: the raw data does not agree with itself: {mismatch}")
    for posting in postings:
        assert sum(amount for _, amount, _ in posting.legs) == 0, posting
    describe(postings)
    if arguments.postings:
        write_postings(arguments.postings, postings)
    if arguments.balances:
        balances = net_changes(postings)
        if arguments.opening:
            for row in read_rows(arguments.opening):
                balances[row["address"]] += int(row["balance_wei"])
        write_balances(arguments.balances, balances)
        print(f"{arguments.balances}: {sum(1 for value in balances.values() if value)} accounts, "
              f"{sum(1 for value in balances.values() if value < 0)} below zero")


if __name__ == "__main__":
    main()
