#!/usr/bin/env python3
"""Compares what a data folder's ledger has posted with expected postings and balances, from outside.

usage: compare_postings.py --leat BIN --data DIR --postings FILE.jsonl [--balances FILE.csv] [--opening FILE.csv]

The files are those of expected_postings.py. Posting by posting, in order: block, transaction and the multiset of legs
(account, signed amount, kind). Every posting has to sum to zero per asset. Postings of opening balances stand in
front, and have to add up to --opening. Prints the first difference and exits with 1 when there is one.
"""

import argparse
import collections
import csv
import json
import subprocess
import sys

TOPIC = "ledger.entries"
TYPE = "ledger.entries_posted.v1"
KIND_PREFIX = "LEG_"
SYSTEM_PREFIX = "SYSTEM_ACCOUNT_"
LEGS_SHOWN_MAX = 40


class Difference(Exception):
    """The product and the expectation differ."""


def leat_lines(leat, data, *arguments):
    """The lines that the command prints, as they come; its failure is a difference."""
    command = [leat, "--data", data, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, encoding="utf-8") as process:
        for line in process.stdout:
            yield line.rstrip("\n")
    if process.returncode != 0:
        raise Difference(f"`{' '.join(command)}` ended with {process.returncode}")


def leg_of(leg):
    """(account, signed amount, kind, asset) of a leg in the JSON of leat.ledger.v1.Leg, where a field that has its
    default value is left out."""
    if leg.get("account_class", "ACCOUNT_CLASS_MIRRORED") == "ACCOUNT_CLASS_SYSTEM":
        account = "system:" + leg["system_account"][len(SYSTEM_PREFIX):].lower()
    else:
        account = leg.get("address", "")
    amount = int(leg.get("magnitude", "0"))
    if amount <= 0:
        raise Difference(f"a leg of nothing was posted: {leg}")
    kind = leg.get("kind", KIND_PREFIX + "TRANSFER")[len(KIND_PREFIX):].lower()
    return account, -amount if leg.get("negative", False) else amount, kind, leg.get("asset", "")


def postings_of(leat, data):
    """(event id, block, transaction, legs) of every posting, in the order of the topic."""
    for line in leat_lines(leat, data, "replay", "--topic", TOPIC, "--type", TYPE):
        event = json.loads(line)
        if event.get("specversion") != "1.0" or event.get("type") != TYPE:
            raise Difference(f"replay --type {TYPE} gave another event: {line[:300]}")
        posting = event["data"]
        if posting.get("reverses", 0):
            raise Difference(f"event {event['id']} reverses an earlier one, and nothing was reverted here")
        legs = [leg_of(leg) for leg in posting.get("legs", [])]
        sums = collections.Counter()
        for _, amount, _, asset in legs:
            sums[asset] += amount
        if not legs or any(sums.values()):
            raise Difference(f"event {event['id']} does not sum to zero: {line[:1000]}")
        yield (event["id"], int(posting.get("block_number", 0)), posting.get("transaction_hash") or None,
               [(account, amount, kind) for account, amount, kind, _ in legs])


def show(legs):
    lines = [f"    {account:<42} {amount:>30} {kind}" for account, amount, kind in sorted(legs)[:LEGS_SHOWN_MAX]]
    return "\n".join(lines + (["    …"] if len(legs) > LEGS_SHOWN_MAX else [])) or "    (none)"


def describe_legs(expected, actual):
    missing = collections.Counter(expected) - collections.Counter(actual)
    surplus = collections.Counter(actual) - collections.Counter(expected)
    return (f"  expected and not posted:\n{show(list(missing.elements()))}\n"
            f"  posted and not expected:\n{show(list(surplus.elements()))}")


def compare_postings(leat, data, postings_path, opening_path=None):
    """The number of postings and legs that agree."""
    opening = collections.Counter()
    compared = legs_compared = 0
    with open(postings_path, encoding="utf-8") as expected_lines:
        for event_id, block, transaction, legs in postings_of(leat, data):
            if all(kind == "opening" for _, _, kind in legs):
                if compared:
                    raise Difference(f"event {event_id}: an opening balance behind {compared} other postings")
                for account, amount, _ in legs:
                    if not account.startswith("system:"):
                        opening[account] += amount
                continue
            line = expected_lines.readline()
            if not line:
                raise Difference(f"event {event_id} (block {block}, transaction {transaction}) is one more than the "
                                 f"{compared} expected:\n{show(legs)}")
            expected = json.loads(line)
            expected_legs = [(account, int(amount), kind) for account, amount, kind in expected["legs"]]
            if (block, transaction) != (expected["block"], expected["transaction"]):
                raise Difference(f"posting {compared}, event {event_id}: expected block {expected['block']}, "
                                 f"transaction {expected['transaction']}; posted block {block}, "
                                 f"transaction {transaction}")
            if collections.Counter(legs) != collections.Counter(expected_legs):
                raise Difference(f"posting {compared}, event {event_id}, block {block}, transaction {transaction}:\n"
                                 + describe_legs(expected_legs, legs))
            compared += 1
            legs_compared += len(legs)
        line = expected_lines.readline()
        if line:
            raise Difference(f"after {compared} postings the topic ends; expected next: {line[:1000].rstrip()}")
    expected_opening = collections.Counter()
    if opening_path is not None:
        with open(opening_path, newline="", encoding="utf-8") as lines:
            for row in csv.DictReader(lines):
                expected_opening[row["address"]] += int(row["balance_wei"])
    for account in sorted(set(opening) | set(expected_opening)):
        if opening[account] != expected_opening[account]:
            raise Difference(f"opening balance of {account}: expected {expected_opening[account]}, "
                             f"posted {opening[account]}")
    return compared, legs_compared


def compare_balances(leat, data, balances_path):
    """The number of lines that agree; the header is one of them."""
    compared = 0
    with open(balances_path, encoding="utf-8") as expected_lines:
        for line in leat_lines(leat, data, "query", "balances", "--format", "csv"):
            expected = expected_lines.readline().rstrip("\n")
            if line != expected:
                raise Difference(f"query balances, line {compared + 1}: expected {expected or 'the end'}, got {line}")
            compared += 1
        line = expected_lines.readline()
        if line:
            raise Difference(f"query balances ends after {compared} lines; expected next: {line.rstrip()}")
    return compared


def main():
    parser = argparse.ArgumentParser(description="compares a data folder with expected postings and balances")
    parser.add_argument("--leat", required=True, metavar="BIN")
    parser.add_argument("--data", required=True, metavar="DIR")
    parser.add_argument("--postings", required=True, metavar="FILE.jsonl")
    parser.add_argument("--balances", metavar="FILE.csv")
    parser.add_argument("--opening", metavar="FILE.csv")
    arguments = parser.parse_args()
    try:
        postings, legs = compare_postings(arguments.leat, arguments.data, arguments.postings, arguments.opening)
        print(f"{postings} postings with {legs} legs are as expected")
        if arguments.balances:
            lines = compare_balances(arguments.leat, arguments.data, arguments.balances)
            print(f"{lines - 1} balances are as expected")
    except Difference as difference:
        sys.exit(f"DIFFERENCE: {difference}")


if __name__ == "__main__":
    main()
