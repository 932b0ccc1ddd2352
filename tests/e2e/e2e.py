#!/usr/bin/env python3
"""End to end, from outside: drives the binary only, through its command line, its HTTP edge and signals.

usage: e2e.py --leat BIN --sample deploy/sample [--quick] [--only NAME]... [--seed S] [--list]

Every check prints PASS, FAIL or SKIPPED with its reason and time. Exits with 1 when one fails.
"""

import argparse
import contextlib
import csv
import datetime
import gzip
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
import urllib.parse

from harness import (CHAIN, OK, OPERATING_ERROR, USAGE_ERROR, Failed, Leat, Server, Skipped, equal, parse_raw, read_all,
                     require)

HERE = os.path.dirname(os.path.abspath(__file__))
GENERATOR = os.path.join(HERE, "..", "..", "bench", "generate_transfers.py")

HEAD = 8191
WEI_PER_ETHER = 10**18
# Facts of the chain that the sample has: the largest grant, and the miner of block 1.
RICHEST = "0x5abfec25f74cd88437631a7731906932776356f9"
RICHEST_WEI = 11901484239480000000000000
MINER = "0x05a56e2d52c817161883f50c441c3228cfe54d9f"
MINER_AT_1000_WEI = 36875000000000000000
MINER_AT_HEAD_WEI = 129843750000000000000
# The example of EIP-55, and the same with the case of one letter turned.
CHECKSUMMED = "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed"
WRONG_CHECKSUM = "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1Beaed"

NOTE_TOPIC = "e2e.notes"
NOTE_TYPE = "ledger.inconsistency_found.v1"
UNKNOWN_TYPE = "nobody.knows_this.v1"

KILLS = 20
KILL_ATTEMPTS_MAX = 200
KILL_TRANSFERS = 60_000
SLOW_CLIENTS = 50
SLOW_CLIENT_S_MAX = 90
FOLLOW_S_MAX = 20
QUIET_S = 6  # longer than the server is silent
OVERSIZE_HEADER_BYTES = 256 * 1024
OVERSIZE_BODY_BYTES = 1 << 34

CHECKS = []


def check(function):
    CHECKS.append(function)
    return function


class Context:
    """What the checks share: the binary, the samples, a scratch folder, and one ingested data folder."""

    def __init__(self, arguments, scratch):
        self.binary = os.path.abspath(arguments.leat)
        self.sample = os.path.abspath(arguments.sample)
        self.genesis = os.path.join(self.sample, "mainnet_genesis")
        self.transactions = os.path.join(self.sample, "mainnet_2017_03")
        self.quick = arguments.quick
        self.full = os.environ.get("LEAT_FULL") == "1"
        self.random = random.Random(arguments.seed)
        self.scratch = scratch
        self.folders = 0
        self.ingested = None

    def path(self, name="scratch"):
        """A path in a fresh folder of its own, that does not exist yet."""
        self.folders += 1
        folder = os.path.join(self.scratch, f"{self.folders:03d}")
        os.makedirs(folder)
        return os.path.join(folder, name)

    def leat(self, data=None):
        return Leat(self.binary, data or self.path("data"))

    def base(self):
        """The data folder with blocks 0..8191, ingested once. Only to be read."""
        if self.ingested is None:
            leat = self.leat()
            leat.ingest(self.genesis)
            self.ingested = leat
        return self.ingested

    def copy(self):
        """A copy of it, to be changed."""
        leat = self.leat()
        shutil.copytree(self.base().data, leat.data)
        return leat


# --- chains of a few blocks, to be spoilt

BLOCK_COLUMNS = ["number", "hash", "parent_hash", "miner", "difficulty", "total_difficulty", "gas_limit", "gas_used",
                 "timestamp", "transaction_count", "base_fee_per_gas", "state_root", "nonce", "sha3_uncles",
                 "transactions_root", "receipts_root", "extra_data"]
TRACE_COLUMNS = ["block_number", "transaction_hash", "transaction_index", "from_address", "to_address", "value",
                 "input", "output", "trace_type", "call_type", "reward_type", "gas", "gas_used", "subtraces",
                 "trace_address", "error", "status", "trace_id"]


def hash_of(number):
    return f"0x{number + 1:064x}"


def small_chain(blocks=5):
    """Rows by file name: genesis with two grants, then blocks with a reward each."""
    chain = {"blocks.csv": [], "traces.csv": []}
    for number in range(blocks):
        chain["blocks.csv"].append({
            "number": number, "hash": hash_of(number), "parent_hash": hash_of(number - 1), "miner": MINER,
            "difficulty": 1, "total_difficulty": number + 1, "gas_limit": 5000, "gas_used": 0,
            "timestamp": 1438269973 + number, "transaction_count": 0, "state_root": hash_of(1000 + number),
            "nonce": "0x0000000000000000", "sha3_uncles": hash_of(0), "transactions_root": hash_of(0),
            "receipts_root": hash_of(0), "extra_data": "0x",
        })
        grants = [(RICHEST, "genesis", "", 7), (CHECKSUMMED.lower(), "genesis", "", 5)] if number == 0 else (
            [(MINER, "reward", "block", 3)])
        for index, (address, trace_type, reward_type, value) in enumerate(grants):
            chain["traces.csv"].append({
                "block_number": number, "to_address": address, "value": value, "trace_type": trace_type,
                "reward_type": reward_type, "subtraces": 0, "status": 1, "trace_id": f"{trace_type}_{number}_{index}",
            })
    return chain


def write_chain(folder, chain, without=()):
    """Writes the rows as CSV; columns named in `without` are left out."""
    os.makedirs(folder, exist_ok=True)
    for name, columns in (("blocks.csv", BLOCK_COLUMNS), ("traces.csv", TRACE_COLUMNS)):
        with open(os.path.join(folder, name), "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, [column for column in columns if column not in without],
                                    lineterminator="\n", extrasaction="ignore")
            writer.writeheader()
            writer.writerows(chain[name])
    return folder


def refused_then_repaired(context, bad, good, mentions):
    """Ingests what is bad, which has to be refused with a clear error, then what is good into the same data folder:
    it has to become what it becomes in a fresh one, so nothing was half-written."""
    fresh = context.leat()
    fresh.ingest(good)
    leat = context.leat()
    leat.error("ingest", "ethereum-etl", bad, "--chain", CHAIN, mentions=mentions)
    leat.ingest(good)
    equal(leat.state_hash(), fresh.state_hash(), "state after the repaired input")
    equal(leat.log_digest(), fresh.log_digest(), "log after the repaired input")
    equal(leat.run("verify").code, OK, "exit code of verify")


def spoilt_row(context, file, row, field, value, *mentions):
    """A chain with one field wrong. The error names the file, the line (the header is line 1) and the field."""
    chain = small_chain()
    chain[file][row][field] = value
    bad = write_chain(context.path("bad"), chain)
    good = write_chain(context.path("good"), small_chain())
    line = rf"(\bline |:){row + 2}\b"
    refused_then_repaired(context, bad, good, [re.escape(file), line, field, *mentions])


# --- the main job


def published_hash(context):
    with open(os.path.join(context.genesis, f"balances_at_{HEAD}.sha256"), encoding="utf-8") as lines:
        return next(line.split()[0] for line in lines if "non_zero" in line)


def published_balances(context, block):
    """Non-zero balances at a block, folded from the sample's own rows."""
    balances = {}
    with gzip.open(os.path.join(context.genesis, "traces.csv.gz"), "rt", newline="", encoding="utf-8") as lines:
        for row in csv.DictReader(lines):
            if int(row["block_number"]) <= block:
                balances[row["to_address"]] = balances.get(row["to_address"], 0) + int(row["value"])
    return {address: wei for address, wei in balances.items() if wei}


def csv_of(balances):
    return "address,balance_wei\n" + "".join(f"{address},{balances[address]}\n" for address in sorted(balances))


def ether(wei):
    """A decimal string in ether, exact and without trailing zeros."""
    whole, rest = divmod(wei, WEI_PER_ETHER)
    fraction = f"{rest:018d}".rstrip("0")
    return f"{whole}.{fraction}" if fraction else str(whole)


def listing(document, key):
    return document[key] if isinstance(document, dict) else document


def require_balance(answer, address, wei, block=None):
    equal(answer["address"].lower(), address, "address")
    equal(answer["balance_wei"], str(wei), f"balance_wei of {address}")
    require(re.fullmatch(r"-?\d+(\.\d+)?", answer["balance"]), "balance is no decimal string:", answer)
    whole, _, fraction = answer["balance"].partition(".")
    equal(int(whole) * WEI_PER_ETHER + int((fraction or "0").ljust(18, "0")), wei, f"balance in ether of {address}")
    for member in ("currency", "asset", "as_of", "completeness"):
        require(member in answer, f"the answer has no {member}:", answer)
    for member in ("position", "block_number", "block_hash", "time"):
        require(member in answer["as_of"], f"as_of has no {member}:", answer)
    if block is not None:
        equal(int(answer["as_of"]["block_number"]), block, "as_of.block_number")


@check
def main_job(context):
    """Blocks 0..8191 of Ethereum: exact balances at every height asked, the header's state root, and no second time."""
    leat = context.base()
    equal(leat.state_hash("--at-block", HEAD), published_hash(context), "hash of the state at the head")
    for block in (0, 1, 3, 1000, 4097, HEAD):
        out = leat.ok("query", "balances", "--at-block", block, "--format", "csv")
        require(out == csv_of(published_balances(context, block)), f"the state at block {block} is not as published")
    rows = [json.loads(line) for line in
            leat.ok("query", "balances", "--at-block", 1000, "--format", "jsonl").splitlines()]
    equal({row["address"]: int(row["balance_wei"]) for row in rows}, published_balances(context, 1000), "JSON lines")
    blocks = listing(leat.json("query", "blocks", "--limit", 3), "blocks")
    equal([int(block["number"]) for block in blocks], [HEAD, HEAD - 1, HEAD - 2], "newest blocks")
    for block, arguments in ((0, ["--at-block", "0"]), (1000, ["--at-block", "1000"]), (HEAD, [])):
        supply = leat.json("query", "supply", *arguments)
        equal(int(supply["supply_wei"]), sum(published_balances(context, block).values()), f"supply at block {block}")
    require(leat.json("verify").get("ok") is True, "verify does not say ok")
    for block in (0, 1000, HEAD):
        proof = leat.json("verify", "--state-root", "--at-block", block)
        require(proof.get("ok") is True, f"the state root at block {block} is not the header's:", proof)
    topics = {topic["topic"]: int(topic["events"]) for topic in listing(leat.json("topics"), "topics")}
    require(topics.get("chain.blocks", 0) >= HEAD + 1 and topics.get("ledger.entries", 0) >= HEAD, "topics:", topics)
    require(listing(leat.json("streams"), "streams"), "there are no streams")


@check
def ingest_again(context):
    """A second ingest of the same files adds nothing."""
    leat = context.copy()
    before = leat.log_digest()
    leat.ingest(context.genesis)
    equal(leat.log_digest(), before, "log after a second ingest")
    equal(leat.state_hash(), published_hash(context), "state after a second ingest")


@check
def excerpt(context):
    """The transactions of 2017-03: rows out of order, no receipts; the answers say what they rest on."""
    leat = context.leat()
    leat.error("ingest", "ethereum-etl", context.transactions, "--chain", CHAIN, mentions=["--excerpt"])
    leat.ingest(context.transactions, excerpt=True)
    changes = {}
    path = os.path.join(context.transactions, "transactions.csv.gz")
    with gzip.open(path, "rt", newline="", encoding="utf-8") as lines:
        for row in csv.DictReader(lines):
            if row["to_address"]:
                changes[row["to_address"]] = changes.get(row["to_address"], 0) + int(row["value"])
            changes[row["from_address"]] = changes.get(row["from_address"], 0) - int(row["value"])
    # The creations among them carry no value, so no account has to be derived here.
    rows = leat.ok("query", "balances", "--format", "csv").splitlines()[1:]
    actual = {address: int(wei) for address, wei in (row.split(",") for row in rows)}
    wrong = [address for address, wei in changes.items() if actual.get(address, 0) != wei]
    require(not wrong, f"{len(wrong)} accounts differ from the rows, such as", wrong[:3])
    equal(sum(actual.values()), 0, "sum of the signed net changes (value only: nothing is issued or burnt)")
    address = next(iter(changes))
    answer = leat.json("query", "balance", address)
    require_balance(answer, address, changes[address])
    equal(answer["completeness"]["value"], "value_only", "completeness.value")
    equal(answer["completeness"]["history"], "partial", "completeness.history")
    equal(int(answer["completeness"]["since_block"]), 3300000, "completeness.since_block")


@check
def cli_queries(context):
    """Balances now, at a block, at a time and at a position; statements, paged to the end."""
    leat = context.base()
    now = leat.json("query", "balance", MINER)
    require_balance(now, MINER, MINER_AT_HEAD_WEI, HEAD)
    equal(now["completeness"], {"value": "exact", "history": "genesis"}, "completeness")
    require_balance(leat.json("query", "balance", MINER, "--at-block", 1000), MINER, MINER_AT_1000_WEI, 1000)
    require_balance(leat.json("query", "balance", MINER, "--at-position", now["as_of"]["position"]), MINER,
                    MINER_AT_HEAD_WEI)
    block = leat.json("query", "balance", MINER, "--at-block", 1000)["as_of"]
    require_balance(leat.json("query", "balance", MINER, "--at-time", block["time"]), MINER, MINER_AT_1000_WEI, 1000)
    nobody = "0x00000000000000000000000000000000000000ff"
    require_balance(leat.json("query", "balance", nobody), nobody, 0)
    require_balance(leat.json("query", "balance", RICHEST.upper().replace("0X", "0x")), RICHEST, RICHEST_WEI)
    require_balance(leat.json("query", "balance", CHECKSUMMED), CHECKSUMMED.lower(), 0)
    leat.error("query", "balance", WRONG_CHECKSUM, mentions=["EIP-55|checksum"])
    leat.error("query", "balance", "0x1234", mentions=["address"])
    leat.error("query", "balance", MINER, "--at-block", HEAD + 1, mentions=[str(HEAD)])

    entries, cursor, pages = [], None, 0
    while pages < 1000:
        page = leat.json("query", "statement", MINER, "--limit", 10, *(["--cursor", cursor] if cursor else []))
        require(len(page["entries"]) <= 10, "a page longer than its limit")
        entries += page["entries"]
        pages += 1
        cursor = page.get("next_cursor")
        if not cursor:
            break
    require(pages > 1, "a statement of one page shows no paging")
    require_statement(entries, MINER_AT_HEAD_WEI)
    equal(sum(int(entry["amount_wei"]) for entry in entries), MINER_AT_HEAD_WEI, "sum of the statement")


def require_statement(entries, newest_wei):
    """Running balances fit together, newest first or oldest first."""
    amounts = [int(entry["amount_wei"]) for entry in entries]
    balances = [int(entry["balance_wei"]) for entry in entries]
    newest_first = balances[0] == newest_wei
    if not newest_first:
        amounts.reverse()
        balances.reverse()
    equal(balances[0], newest_wei, "newest running balance")
    for index in range(len(balances) - 1):
        equal(balances[index] - amounts[index], balances[index + 1], f"running balance before entry {index}")


# --- HTTP


@check
def http_routes(context):
    """Every route answers, and says the same as the command line."""
    leat = context.copy()
    with leat.serving() as server:
        with open(os.path.join(leat.data, "server.json"), encoding="utf-8") as file:
            equal(int(json.load(file)["port"]), server.port, "port in server.json")
        for target in ("/health", "/health/live", "/health/ready"):
            server.json(target)
        now = server.json(f"/api/balance/{MINER}")
        require_balance(now, MINER, MINER_AT_HEAD_WEI, HEAD)
        equal(now["balance"], ether(MINER_AT_HEAD_WEI), "balance")
        equal(now["completeness"], {"value": "exact", "history": "genesis"}, "completeness")
        require_balance(server.json(f"/api/balance/{MINER}?at_block=1000"), MINER, MINER_AT_1000_WEI, 1000)
        quoted = urllib.parse.quote(now["as_of"]["position"], safe="")
        require_balance(server.json(f"/api/balance/{MINER}?at_position={quoted}"), MINER, MINER_AT_HEAD_WEI)
        at_1000 = server.json(f"/api/balance/{MINER}?at_block=1000")["as_of"]
        quoted = urllib.parse.quote(str(at_1000["time"]), safe="")
        require_balance(server.json(f"/api/balance/{MINER}?at_time={quoted}"), MINER, MINER_AT_1000_WEI, 1000)
        quoted = urllib.parse.quote(now["asset"], safe="")
        require_balance(server.json(f"/api/balance/{MINER}?asset={quoted}"), MINER, MINER_AT_HEAD_WEI)
        require_balance(server.json(f"/api/balance/{CHECKSUMMED}"), CHECKSUMMED.lower(), 0)

        page = server.json(f"/api/balance/{MINER}/statement?limit=5")
        equal(len(page["entries"]), 5, "entries of a page")
        more = server.json(f"/api/balance/{MINER}/statement?limit=5&cursor="
                           + urllib.parse.quote(page["next_cursor"], safe=""))
        require(more["entries"] and more["entries"][0] != page["entries"][0], "the second page is the first")

        expected = csv_of(published_balances(context, 1000))
        for headers in ({}, {"Accept": "text/csv"}):
            answer = server.request("GET", "/api/balances?at_block=1000", headers=headers)
            equal(answer.status, 200, "status")
            if answer.media_type() == "text/csv":
                require(answer.text() == expected, "the state as CSV is not the published one")
        answer = server.request("GET", "/api/balances?at_block=1000", headers={"Accept": "application/x-ndjson"})
        rows = [json.loads(line) for line in answer.text().splitlines()]
        equal(len(rows), expected.count("\n") - 1, "JSON lines of the state")

        blocks = listing(server.json("/api/blockchain/blocks?limit=2"), "blocks")
        equal([int(block["number"]) for block in blocks], [HEAD, HEAD - 1], "newest blocks")
        by_number = server.json("/api/blockchain/blocks/1000")
        by_hash = server.json(f"/api/blockchain/blocks/{by_number['hash']}")
        equal(by_hash["hash"], by_number["hash"], "the block by its hash")
        equal(int(by_hash["number"]), 1000, "number of the block by its hash")

        for block in (1000, HEAD):
            balances = published_balances(context, block)
            supply = server.json(f"/api/supply?at_block={block}")
            equal(supply["supply_wei"], str(sum(balances.values())), f"supply at block {block}")
            equal(supply["supply"], ether(sum(balances.values())), f"supply in ether at block {block}")
            richest = server.json(f"/api/balances/richest?at_block={block}&limit=20")["accounts"]
            equal([int(account["balance_wei"]) for account in richest], sorted(balances.values(), reverse=True)[:20],
                  f"richest at block {block}")
            require(all(balances[account["address"]] == int(account["balance_wei"]) for account in richest),
                    "richest accounts have other balances")
        equal(leat.json("query", "richest", "--limit", 1)["accounts"][0]["address"], RICHEST, "the richest")

        topics = {topic["topic"]: topic for topic in server.json("/api/topics")["topics"]}
        equal(topics["chain.blocks"]["owner"], "ingest", "owner of chain.blocks")
        for topic in topics.values():
            equal(sum(int(partition["events"]) for partition in topic["partitions"]), int(topic["events"]),
                  f"events of the partitions of {topic['topic']}")
        streams = server.json("/api/streams")
        equal(streams["next"], None, "next of all streams")
        equal({stream["log"]: int(stream["version"]) for stream in streams["streams"] if stream["log"] in topics},
              {name: int(topic["events"]) for name, topic in topics.items()}, "versions of the streams")
        paged, after = [], ""
        while after is not None and len(paged) < 100:
            page = server.json(f"/api/streams?limit=1&after={urllib.parse.quote(after, safe='')}")
            paged += page["streams"]
            after = page["next"]
        equal(paged, streams["streams"], "streams, page by page")
        equal(leat.json("streams")["streams"], paged, "streams on the command line")
        equal(leat.json("streams", "--log", "chain.blocks")["streams"],
              [stream for stream in paged if stream["log"] == "chain.blocks"], "streams of one log")

        events = listing(server.json("/api/events?limit=5"), "events")
        equal(len(events), 5, "events of a page")
        for event in events:
            equal(event["specversion"], "1.0", "specversion")
        posted = listing(server.json("/api/events?limit=3&type=ledger.entries_posted.v1"), "events")
        equal({event["type"] for event in posted}, {"ledger.entries_posted.v1"}, "types of filtered events")
        stream = urllib.parse.quote(posted[0]["subject"], safe="")
        by_stream = listing(server.json(f"/api/events?limit=3&stream={stream}"), "events")
        equal({event["subject"] for event in by_stream}, {posted[0]["subject"]}, "subjects of one stream")


@check
def http_publish(context):
    """POST /api/events: one event and a batch; the position that comes back can be handed to a query."""
    leat = context.leat()
    leat.ingest(write_chain(context.path("chain"), small_chain()))
    with leat.serving() as server:
        target = f"/api/events?topic={NOTE_TOPIC}"
        one = server.request("POST", target, json.dumps(note(1)), {"Content-Type": "application/cloudevents+json"})
        require(one.status in (200, 201, 202) and one.json().get("position"), "publishing one event:", one)
        batch = server.request("POST", target, json.dumps([note(2), note(3)]),
                               {"Content-Type": "application/cloudevents-batch+json"})
        require(batch.status in (200, 201, 202) and batch.json().get("position"), "publishing a batch:", batch)
        quoted = urllib.parse.quote(one.json()["position"], safe="")
        page = listing(server.json(f"/api/events?from={quoted}&limit=1"), "events")
        equal([event["id"] for event in page], ["e2e-1"], "the event at the position of its publication")
        server.problem("GET", f"/api/balance/{MINER}?after={quoted}", {400}, mentions=[re.escape(NOTE_TOPIC)])
        equal(data_of(leat.lines("replay", "--topic", NOTE_TOPIC)), [note(number)["data"] for number in (1, 2, 3)],
              "what was published")
        before = leat.log_digest()
        bad = {"no CloudEvent": json.dumps({"hello": 1}), "no JSON": "{",
               "an unknown type": json.dumps(note(4, UNKNOWN_TYPE)),
               "a batch with a bad one": json.dumps([note(5), {"hello": 1}])}
        for what, body in bad.items():
            form = "cloudevents-batch" if body.startswith("[") else "cloudevents"
            server.problem("POST", target, {400, 415, 422}, body, {"Content-Type": f"application/{form}+json"})
            equal(leat.log_digest(), before, f"log after {what}")


@check
def read_your_writes(context):
    """A position of what was written, given to `after`, is reflected; given to `at_position`, it is the past."""
    leat = context.leat()
    leat.ingest(write_chain(context.path("first"), small_chain(3)))
    with leat.serving() as server:
        for blocks in range(4, 9):
            before = server.json(f"/api/balance/{MINER}")
            leat.ingest(write_chain(context.path("more"), small_chain(blocks)))
            newest = urllib.parse.quote(f"chain.blocks/0@{blocks - 1}", safe="")
            now = server.json(f"/api/balance/{MINER}?after={newest}")
            require_balance(now, MINER, 3 * (blocks - 1), blocks - 1)
            equal(leat.json("query", "balance", MINER, "--after", f"chain.blocks/0@{blocks - 1}"), now, "--after")
            equal(leat.json("query", "balance", MINER), now, "a query through the server, without a position")
            quoted = urllib.parse.quote(before["as_of"]["position"], safe="")
            require_balance(server.json(f"/api/balance/{MINER}?at_position={quoted}"), MINER, 3 * (blocks - 2), blocks - 2)
        server.problem("GET", f"/api/balance/{MINER}?after=chain.blocks%2F0%40999", {404}, mentions=["beyond the end"])


@check
def http_errors(context):
    """What is wrong with a request is answered with a problem document."""
    with context.copy().serving() as server:
        for address in ("0x1234", "nobody", "0x" + "g" * 40, WRONG_CHECKSUM, "0x" + "0" * 41):
            server.problem("GET", f"/api/balance/{address}", {400}, mentions=["address"])
        for target in ("/api", "/api/nothing", "/api/balance", "/api/balance/", f"/api/balance/{MINER}/nothing",
                       "/health/nothing", "/api/blockchain/blocks/1/2"):
            server.problem("GET", target, {404})
        for method, target in (("DELETE", f"/api/balance/{MINER}"), ("POST", "/api/balances"), ("PUT", "/api/events"),
                               ("POST", "/health"), ("PATCH", "/api/blockchain/blocks")):
            answer = server.problem(method, target, {405})
            require("allow" in answer.headers, "405 without Allow:", answer)
        server.problem("GET", "/api/balance/%ff", {400}, mentions=["address"])
        server.problem("GET", f"/api/balance/{MINER}?at_block={HEAD + 1}", {400, 404, 409, 422}, mentions=[str(HEAD)])
        for value in ("-1", "x", "1e3", "", "99999999999999999999999"):
            server.problem("GET", f"/api/balance/{MINER}?at_block={value}", {400, 404, 422}, mentions=["at_block"])
        server.problem("GET", f"/api/balance/{MINER}?at_position=nonsense", {400}, mentions=["at_position|position"])
        server.problem("GET", f"/api/balance/{MINER}?at_time=yesterday", {400}, mentions=["at_time|time"])
        server.problem("GET", f"/api/balance/{MINER}?asset=nonsense", {400, 404}, mentions=["asset"])
        server.problem("GET", f"/api/balance/{MINER}/statement?limit=0", {400}, mentions=["limit"])
        server.problem("GET", f"/api/balance/{MINER}/statement?cursor=nonsense", {400}, mentions=["cursor"])
        server.problem("GET", f"/api/blockchain/blocks/{HEAD + 1}", {404})
        server.problem("GET", "/api/blockchain/blocks/0x" + "ab" * 32, {404})
        server.problem("GET", "/api/blockchain/blocks/nonsense", {400, 404})
        server.problem("GET", f"/api/balances?at_block={HEAD + 1}", {400, 404, 409, 422}, mentions=[str(HEAD)])
        server.json("/health")


@check
def http_connections(context):
    """Oversize header and body, malformed requests, keep-alive, pipelining, half-closed and slow connections."""
    with context.copy().serving() as server:
        request = f"GET /api/balance/{MINER} HTTP/1.1\r\nHost: localhost\r\n".encode()
        large = server.raw(request + b"X-Large: " + b"x" * OVERSIZE_HEADER_BYTES + b"\r\n\r\n")
        parse_raw(large, "large header").require_problem({400, 431})
        body = parse_raw(server.raw(b"POST /api/events HTTP/1.1\r\nHost: localhost\r\nContent-Type: "
                                    b"application/cloudevents+json\r\nContent-Length: %d\r\n\r\n{"
                                    % OVERSIZE_BODY_BYTES), "large body")
        body.require_problem({413})
        for octets in (b"nonsense\r\n\r\n", b"GET / HTTP/9.9\r\nHost: x\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01"):
            received = server.raw(octets, half_close=True)
            require(not received or received.startswith(b"HTTP/1.1 4") or received.startswith(b"HTTP/1.1 5"),
                    f"{octets!r} is answered with {received[:200]!r}")
        server.json("/health")

        # Half-closed: the client has said all it has to say, and still wants the whole answer.
        whole = parse_raw(server.raw(request + b"\r\n", half_close=True))
        equal(whole.status, 200, "status over a half-closed connection")
        equal(len(whole.body), int(whole.headers["content-length"]), "body over a half-closed connection")
        state = server.raw(b"GET /api/balances?at_block=1000 HTTP/1.1\r\nHost: localhost\r\n\r\n", half_close=True)
        require(state.startswith(b"HTTP/1.1 200") and MINER.encode() in state, "a streamed answer, half-closed")
        server.raw(request, half_close=True)  # gone in the middle of a request: no hang
        keep_alive_and_pipelining(server, request)
        slow_clients(context, server, request)


def keep_alive_and_pipelining(server, request):
    with server.connect() as connection:
        connection.sendall((request + b"\r\n") * 3 + request + b"Connection: close\r\n\r\n")
        received = read_all(connection)
    equal(received.count(b"HTTP/1.1 200"), 4, "answers to four pipelined requests")


def slow_clients(context, server, request):
    """Clients that never finish their request neither keep others from being served nor stay for ever."""
    with contextlib.ExitStack() as stack:
        slow = [stack.enter_context(server.connect()) for _ in range(SLOW_CLIENTS)]
        for connection in slow:
            connection.sendall(request[:20])
        started = time.monotonic()
        server.json(f"/api/balance/{MINER}")
        require(time.monotonic() - started < 5, "slow clients keep others from being served")
        if context.quick:
            print("    (--quick: not waiting until slow clients are sent away)")
            return
        for connection in slow:
            read_all(connection, max(1.0, started + SLOW_CLIENT_S_MAX - time.monotonic()))
    server.json("/health")


# --- bad input on the command line


@check
def bad_gzip(context):
    """A truncated gzip names its file."""
    bad = context.path("bad")
    os.makedirs(bad)
    shutil.copy(os.path.join(context.genesis, "blocks.csv.gz"), bad)
    with open(os.path.join(context.genesis, "traces.csv.gz"), "rb") as file:
        whole = file.read()
    with open(os.path.join(bad, "traces.csv.gz"), "wb") as file:
        file.write(whole[:len(whole) // 2])
    refused_then_repaired(context, bad, context.genesis, [r"traces\.csv\.gz", "truncated|ends early|unexpected end"])


@check
def bad_columns(context):
    """A missing column is named, with its file."""
    good = write_chain(context.path("good"), small_chain())
    for file, column in (("traces.csv", "value"), ("blocks.csv", "parent_hash"), ("blocks.csv", "hash")):
        bad = write_chain(context.path("bad"), small_chain(), without={column})
        refused_then_repaired(context, bad, good, [re.escape(file), column, "column"])


@check
def bad_numbers(context):
    """Numbers of 2^256 and of -1, and what is no number."""
    for value in (str(2**256), "-1", "1.5", "ten"):
        spoilt_row(context, "traces.csv", 3, "value", value)
    spoilt_row(context, "blocks.csv", 2, "difficulty", str(2**256))
    spoilt_row(context, "blocks.csv", 2, "timestamp", "-1")


@check
def bad_addresses(context):
    """An address with a wrong EIP-55 checksum, and what is no address."""
    spoilt_row(context, "traces.csv", 1, "to_address", WRONG_CHECKSUM, "EIP-55|checksum")
    spoilt_row(context, "traces.csv", 1, "to_address", "0x1234")
    chain = small_chain()
    chain["traces.csv"][1]["to_address"] = CHECKSUMMED
    leat = context.leat()
    leat.ingest(write_chain(context.path("mixed"), chain))
    require(f"\n{CHECKSUMMED.lower()},5\n" in leat.ok("query", "balances", "--format", "csv"),
            "a right mixed-case address is not stored in lower case")


@check
def bad_blocks(context):
    """A block out of nowhere, and what is missing altogether."""
    good = write_chain(context.path("good"), small_chain())
    chain = small_chain()
    chain["blocks.csv"][4]["parent_hash"] = hash_of(4711)
    refused_then_repaired(context, write_chain(context.path("bad"), chain), good, ["parent", hash_of(4711)])
    leat = context.leat()
    leat.error("ingest", "ethereum-etl", context.path("nothing"), "--chain", CHAIN, mentions=["nothing"])
    empty = context.path("empty")
    os.makedirs(empty)
    leat.error("ingest", "ethereum-etl", empty, "--chain", CHAIN, mentions=["empty|no .*files|nothing"])
    for chain_id in ("ethereum", "eip155:", ""):
        result = leat.run("ingest", "ethereum-etl", good, "--chain", chain_id)
        require(result.code in (OPERATING_ERROR, USAGE_ERROR), "a wrong chain id is taken:", result)


@check
def bad_events(context):
    """Publishing what is no CloudEvent, or of an unknown type, leaves the log as it was."""
    leat = context.leat()
    leat.ingest(write_chain(context.path("chain"), small_chain()))
    before = leat.log_digest()
    leat.error("publish", NOTE_TOPIC, stdin='{"hello": 1}\n', mentions=["CloudEvent|specversion"])
    leat.error("publish", NOTE_TOPIC, stdin="not JSON\n", mentions=["JSON"])
    leat.error("publish", NOTE_TOPIC, stdin=json.dumps(note(1, UNKNOWN_TYPE)) + "\n",
               mentions=[re.escape(UNKNOWN_TYPE)])
    leat.error("publish", NOTE_TOPIC, "--type", UNKNOWN_TYPE, "--key", "k", "--data", "{}",
               mentions=[re.escape(UNKNOWN_TYPE)])
    leat.error("publish", NOTE_TOPIC, "--type", NOTE_TYPE, "--key", "k", "--data", '{"no_such_field": 1}',
               mentions=["no_such_field"])
    leat.error("publish", NOTE_TOPIC, "--file", context.path("nothing"), mentions=["nothing"])
    leat.error("publish", NOTE_TOPIC, stdin=json.dumps(note(1)) + "\n{\n", mentions=["line 2|:2"])
    equal(leat.log_digest(), before, "log after bad events")


@check
def usage_errors(context):
    """Unknown flags and commands end with 2, and --help with 0."""
    leat = context.base()
    for arguments in (["--no-such-flag"], ["no-such-command"], [], ["query"], ["query", "balance"],
                      ["query", "balance", MINER, "--no-such-flag"], ["query", "balance", MINER, "--at-block", "x"],
                      ["query", "balances", "--format", "xml"], ["ingest", "ethereum-etl"], ["replay", "--limit", "x"],
                      ["serve", "--port", "70000"], ["serve", "--port", "x"], ["project", "rebuild"],
                      ["verify", "--root", "xyz"]):
        result = leat.run(*arguments)
        equal(result.code, USAGE_ERROR, f"exit code of `leat {' '.join(arguments)}` ({result.err.strip()[:200]})")
        require(result.err.strip(), "a usage error says nothing:", result)
    for arguments in (["--help"], ["query", "--help"], ["ingest", "ethereum-etl", "--help"]):
        require("Usage" in leat.ok(*arguments) or "usage" in leat.ok(*arguments), f"no usage in {arguments}")


@check
def newer_format(context):
    """A data folder of a newer format is left alone."""
    leat = context.copy()
    path = os.path.join(leat.data, "format")
    with open(path, encoding="utf-8") as file:
        text = file.read()
    with open(path, "w", encoding="utf-8") as file:
        file.write(re.sub(r"\d+", "999", text, count=1) if re.search(r"\d", text) else "999\n")
    for arguments in (["query", "blocks"], ["serve", "--port", "0"], ["verify"],
                      ["ingest", "ethereum-etl", context.genesis, "--chain", CHAIN]):
        leat.error(*arguments, mentions=["format", "newer|999"])
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
    equal(leat.state_hash(), published_hash(context), "state after all that")


@check
def full_disk(context):
    """A disk that is full ends an ingest with a clear error; with room again it goes on to the same state."""
    with open("/dev/full", "wb") as full:
        result = context.base().run("query", "balances", "--format", "csv", stdout=full)
    equal(result.code, OPERATING_ERROR, "exit code with a full standard output")
    if os.geteuid() != 0:
        raise Skipped("not root: no small file system can be mounted (only a full standard output was tried)")
    mount_point = context.path("small")
    os.makedirs(mount_point)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "leat-e2e", mount_point], check=False,
                             capture_output=True)
    if mounted.returncode != 0:
        raise Skipped(f"mount is not allowed here ({mounted.stderr.decode('utf-8', 'replace').strip()}); "
                      "only a full standard output was tried")
    try:
        leat = context.leat(os.path.join(mount_point, "data"))
        leat.error("ingest", "ethereum-etl", context.genesis, "--chain", CHAIN, mentions=["space|disk|full"])
        subprocess.run(["mount", "-o", "remount,size=512m", mount_point], check=True)
        leat.ingest(context.genesis)
        equal(leat.state_hash(), published_hash(context), "state after the disk was full")
        equal(leat.log_digest(), context.base().log_digest(), "log after the disk was full")
    finally:
        subprocess.run(["umount", mount_point], check=False)


@check
def port_in_use(context):
    """A port that is taken is named."""
    leat = context.copy()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen(1)
        port = taken.getsockname()[1]
        leat.error("serve", "--port", port, mentions=[str(port), "in use|taken"])
    equal(leat.state_hash(), published_hash(context), "state after that")


@check
def two_processes(context):
    """One data folder, one process; and when a server has it, the commands go through the server."""
    leat = context.leat()
    ingest = subprocess.Popen(leat.command("ingest", "ethereum-etl", context.genesis, "--chain", CHAIN),
                              stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 30
        while not os.path.exists(os.path.join(leat.data, "format")) and time.monotonic() < deadline:
            time.sleep(0.001)
        ingest.send_signal(signal.SIGSTOP)
        if ingest.poll() is not None:
            raise Failed("the ingest ended before it could be stopped; take a larger input")
        for arguments in (["query", "blocks"], ["serve", "--port", "0"],
                          ["ingest", "ethereum-etl", context.genesis, "--chain", CHAIN]):
            leat.error(*arguments, mentions=["in use|another process|locked|already"], timeout_s=60)
        ingest.send_signal(signal.SIGCONT)
        equal(ingest.wait(300), OK, "exit code of the ingest that was held up")
    finally:
        ingest.kill()
        ingest.wait()
    equal(leat.state_hash(), published_hash(context), "state after all that")

    alone = {arguments: leat.ok(*arguments) for arguments in
             (("query", "balance", MINER, "--at-block", "1000", "--json"), ("query", "balances", "--format", "csv"),
              ("query", "supply", "--json"), ("topics", "--json"), ("replay", "--limit", "20"))}
    with leat.serving():
        for arguments, expected in alone.items():
            equal(leat.ok(*arguments), expected, f"`{' '.join(arguments)}` through the server")
        leat.error("serve", "--port", "0", mentions=["in use|another|already"])
    require(not os.path.exists(os.path.join(leat.data, "server.json")), "a server that ended leaves server.json behind")

    # A server that was killed leaves its address behind; nobody may be misled by it.
    server = Server(leat)
    server.kill()
    equal(leat.state_hash(), published_hash(context), "state after a server was killed")


@check
def through_server(context):
    """Commands that write go through the server too: ingest, publish, rebuild."""
    leat = context.leat()
    chain = write_chain(context.path("chain"), small_chain())
    with leat.serving() as server:
        leat.ingest(chain)
        leat.ok("publish", NOTE_TOPIC, stdin=json.dumps(note(1)) + "\n")
        leat.ok("project", "rebuild", "balances", "--compare")
        require_balance(server.json(f"/api/balance/{RICHEST}"), RICHEST, 7, 4)
        state, log = leat.state_hash(), leat.log_digest()
    equal((leat.state_hash(), leat.log_digest()), (state, log), "(state, log) without the server")


@check
def request_and_reply(context):
    """`leat request` through a server: the reply is whatever is published to the topic that the request names, in time."""
    leat = context.leat()
    leat.ok("publish", "questions", stdin=json.dumps(note(1)) + "\n")  # which makes the topic
    asked = ("request", "questions", "--type", NOTE_TYPE, "--key", "k", "--data", json.dumps(note(2)["data"]))

    def answer(count, event_type, **data):
        """Waits for the request that is the so-manyth event of the topic, and publishes an answer to it."""
        deadline = time.monotonic() + 30
        while len(events := leat.lines("replay", "--topic", "questions")) < count:
            require(time.monotonic() < deadline, "the request does not come")
        request = events[count - 1]
        require(request["replyto"].startswith("leat.replies.") and request["expirytime"] > request["time"], request)
        reply = {"specversion": "1.0", "type": event_type, "correlationid": request["id"], "data": data}
        return leat.ok("publish", request["replyto"], stdin=json.dumps(reply) + "\n")

    with leat.serving() as server, subprocess.Popen(leat.command(*asked, "--timeout", "60"),
                                                    stdout=subprocess.PIPE) as process:
        answer(2, "ledger.block_closed.v1", chain=CHAIN)
        reply = json.loads(process.communicate(timeout=60)[0])
        equal((process.returncode, reply["type"], reply["data"]), (OK, "ledger.block_closed.v1", {"chain": CHAIN}), "reply")
        for arguments, mentions in (((*asked, "--timeout", "0.1"), ["no reply", "questions", "100 ms"]),
                                    (("request", "nowhere", "--type", NOTE_TYPE), ["nowhere"]),
                                    (("request", "chain.blocks", "--type", NOTE_TYPE, "--partition", "0"), ["only by ingest"]),
                                    (("request", "questions", "--type", NOTE_TYPE, "--data", "@nothing"), ["nothing"]),
                                    (("request", "questions", "--type", "runtime.request_failed.v1"), ["runtime"])):
            leat.error(*arguments, mentions=mentions)
        leat.error("request", "questions", stdin="[]", mentions=["standard input"])
        server.problem("POST", "/api/requests?topic=questions", {413}, body=b"x" * (1 << 20) + b"y",
                       headers={"Content-Type": "application/json"})
        # Whoever waits while the server is stopped is told so at once.
        waiting = subprocess.Popen(leat.command(*asked, "--timeout", "60"), stderr=subprocess.PIPE)
        while len({event["id"] for event in leat.lines("replay", "--topic", "questions")}) < 4:
            pass
        begun = time.monotonic()
        server.stop()
        require(b"stopping" in waiting.communicate(timeout=60)[1] and time.monotonic() - begun < 20, "not told in time")
    leat.error(*asked, "--timeout", "0.1", mentions=["no reply"])  # without a server, too
    with open(os.path.join(leat.data, "instance"), encoding="utf-8") as file:
        topics = {topic["topic"] for topic in leat.json("topics")["topics"]}
        require("leat.replies." + file.read().strip() in topics, "the reply topic is of another instance:", topics)
    with leat.serving("--instance", "given"):
        leat.error(*asked, "--timeout", "0.1", mentions=["no reply"])
    require("leat.replies.given" in {topic["topic"] for topic in leat.json("topics")["topics"]}, "--instance")
    leat.error("serve", "--instance", "1.2", code=USAGE_ERROR, mentions=["instance"])


# --- publish and replay


def note(number, event_type=NOTE_TYPE):
    """A structured CloudEvent whose payload the product knows, on a topic that nothing reads."""
    return {"specversion": "1.0", "id": f"e2e-{number}", "source": "/e2e", "type": event_type,
            "subject": f"note-{number}", "partitionkey": "notes", "datacontenttype": "application/json",
            "data": {"chain": CHAIN, "block_number": str(number), "missing_wei": str(number * 2**64)}}


def data_of(events):
    """The payloads with their numbers as text: proto3 JSON may have 64-bit numbers as either."""
    return [{key: str(value) for key, value in event["data"].items()} for event in events]


@check
def publish_and_replay(context):
    """Events from a flag, a file and standard input; read back by range, type and stream; copied with --into."""
    leat = context.leat()
    leat.ok("publish", NOTE_TOPIC, "--type", NOTE_TYPE, "--key", "notes", "--data", json.dumps(note(1)["data"]))
    path = context.path("events.jsonl")
    with open(path, "w", encoding="utf-8") as file:
        file.writelines(json.dumps(note(number)) + "\n" for number in (2, 3))
    leat.ok("publish", NOTE_TOPIC, "--file", path)
    leat.ok("publish", NOTE_TOPIC, stdin=json.dumps(note(4)) + "\n" + json.dumps(note(5)) + "\n")
    expected = [note(number)["data"] for number in range(1, 6)]
    events = leat.lines("replay", "--topic", NOTE_TOPIC)
    equal(data_of(events), expected, "what was published, in order")
    equal([event["id"] for event in events[1:]], [f"e2e-{number}" for number in range(2, 6)], "ids")
    require(all(event.get("time") and event.get("position") for event in events), "events without time or position")
    equal(data_of(leat.lines("replay", "--topic", NOTE_TOPIC, "--limit", "2")), expected[:2], "--limit")
    equal(data_of(leat.lines("replay", "--type", NOTE_TYPE)), expected, "--type over the whole log")
    equal(leat.lines("replay", "--topic", NOTE_TOPIC, "--type", "ledger.block_closed.v1"), [], "--type of others")
    equal(data_of(leat.lines("replay", "--topic", NOTE_TOPIC, "--stream", "note-3")), expected[2:3], "--stream")
    middle = events[2]["position"]
    tail = leat.lines("replay", "--topic", NOTE_TOPIC, "--from", middle)
    head = leat.lines("replay", "--topic", NOTE_TOPIC, "--to", middle)
    require(data_of(tail) in (expected[2:], expected[3:]), "--from gives", data_of(tail))
    require(data_of(head) in (expected[:2], expected[:3]), "--to gives", data_of(head))
    leat.error("replay", "--from", "nonsense", code=USAGE_ERROR, mentions=["position|token"])

    time.sleep(0.01)
    since = datetime.datetime.now(datetime.timezone.utc).isoformat()
    equal(leat.lines("replay", "--topic", NOTE_TOPIC, "--since", since), [], "--since after all of them")
    leat.ok("publish", NOTE_TOPIC, stdin=json.dumps(note(6)) + "\n")
    equal(data_of(leat.lines("replay", "--topic", NOTE_TOPIC, "--since", since)), [note(6)["data"]], "--since before one")
    equal(data_of(leat.lines("replay", "--topic", NOTE_TOPIC, "--since", "0", "--limit", "5")), expected, "--since before all")
    leat.error("replay", "--since", "noon", "--topic", NOTE_TOPIC, mentions=["since"])
    leat.error("replay", "--since", "0", "--from", middle, "--topic", NOTE_TOPIC, code=USAGE_ERROR, mentions=["since"])
    leat.error("replay", "--since", "0", code=USAGE_ERROR, mentions=["topic"])
    # Over several partitions, page by page.
    keyed = [json.dumps({**note(number), "partitionkey": f"key {number}"}) for number in range(1, 21)]
    leat.ok("publish", "e2e.parts", "--partitions", "3", stdin="\n".join(keyed[:10]) + "\n")
    time.sleep(0.01)
    since = datetime.datetime.now(datetime.timezone.utc).isoformat()
    leat.ok("publish", "e2e.parts", stdin="\n".join(keyed[10:]) + "\n")
    with leat.serving() as server:
        seen, query = [], {"topic": "e2e.parts", "since": since, "limit": 3}
        while query:
            page = server.json("/api/events?" + urllib.parse.urlencode(query))
            seen += [event["id"] for event in page["events"]]
            query = {**query, "from": page["next"]} if page["next"] else None
    equal(sorted(seen), sorted(note(number)["id"] for number in range(11, 21)), "pages of what came since")

    leat.ok("replay", "--topic", NOTE_TOPIC, "--to", events[-1]["position"], "--into", "e2e.copy")
    copies = leat.lines("replay", "--topic", "e2e.copy")
    equal([(event["type"], event["data"]) for event in copies], [(event["type"], event["data"]) for event in events],
          "--into")
    topics = {topic["topic"]: int(topic["events"]) for topic in listing(leat.json("topics"), "topics")}
    equal((topics.get(NOTE_TOPIC), topics.get("e2e.copy")), (6, 5), "events of the topics")


@check
def copy_through_server(context):
    """replay --into, through the server that has the folder, publishes while it reads."""
    leat = context.leat()
    total = 8000  # some batches
    leat.ok("publish", NOTE_TOPIC, stdin="\n".join(json.dumps(note(number)) for number in range(1, total + 1)) + "\n")
    with leat.serving():
        leat.ok("replay", "--topic", NOTE_TOPIC, "--into", "e2e.copy")
        copies = leat.lines("replay", "--topic", "e2e.copy")
    equal([event["id"] for event in copies], [note(number)["id"] for number in range(1, total + 1)], "ids of the copies")


@check
def follow(context):
    """replay --follow catches up, then goes live, without a gap or a double at the seam."""
    leat = context.leat()
    total = 40
    for number in range(1, 6):
        leat.ok("publish", NOTE_TOPIC, stdin=json.dumps(note(number)) + "\n")
    with leat.serving() as server:
        reader = subprocess.Popen(leat.command("replay", "--topic", NOTE_TOPIC, "--follow"), stdin=subprocess.DEVNULL,
                                  stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        try:
            for number in range(6, total + 1):
                answer = server.request("POST", f"/api/events?topic={NOTE_TOPIC}", json.dumps(note(number)),
                                        {"Content-Type": "application/cloudevents+json"})
                require(answer.status < 300, answer)
            ids = [event["id"] for event in read_events(reader, total)]
            equal(ids, [f"e2e-{number}" for number in range(1, total + 1)], "ids followed")
            if not context.quick:
                quiet_follower(server, reader)
            reader.send_signal(signal.SIGINT)
            code = reader.wait(30)
            require(code in (0, 130, -signal.SIGINT), f"--follow ended with {code} on an interrupt")
        finally:
            reader.kill()
            reader.wait()
            reader.stdout.close()
            reader.stderr.close()


def quiet_follower(server, reader):
    """What is sent to a quiet follower, so that both sides see each other, is an empty line, which the command hides."""
    with server.connect() as connection:
        connection.sendall(b"GET /api/events?format=jsonl&follow=true&type=none HTTP/1.1\r\nHost: localhost\r\n\r\n")
        received = b""
        while not received.endswith(b"\r\n\r\n1\r\n\n\r\n"):
            piece = connection.recv(4096)
            require(piece, f"the server left a quiet follower: {received!r}")
            received += piece
    time.sleep(QUIET_S)
    server.request("POST", f"/api/events?topic={NOTE_TOPIC}", json.dumps(note(1000)),
                   {"Content-Type": "application/cloudevents+json"})
    equal([event["id"] for event in read_events(reader, 1)], ["e2e-1000"], "ids followed after a while")


def read_events(process, count):
    """That many JSON lines as they come; they have to come while the process goes on."""
    os.set_blocking(process.stdout.fileno(), False)
    received = b""
    deadline = time.monotonic() + FOLLOW_S_MAX
    while received.count(b"\n") < count:
        require(time.monotonic() < deadline, f"only {received.count(10)} of {count} events within {FOLLOW_S_MAX} s")
        received += process.stdout.read() or b""
        time.sleep(0.02)
    return [json.loads(line) for line in received.splitlines()]


# --- crashes, rebuilds, tampering


@check
def kill_and_resume(context):
    """kill -9 in mid-ingest, resumed: the same state and the same log as undisturbed."""
    kills = 4 if context.quick else KILLS
    generated = context.path("transfers")
    subprocess.run([sys.executable, GENERATOR, generated, "--transfers", str(KILL_TRANSFERS), "--accounts", "2000",
                    "--seed", str(context.random.randrange(2**32))], check=True, stdout=subprocess.DEVNULL)
    for source, share in ((context.genesis, kills // 2), (generated, kills - kills // 2)):
        killed_and_resumed(context, source, share)


def killed_and_resumed(context, source, kills):
    undisturbed = context.leat()
    started = time.monotonic()
    undisturbed.ingest(source)
    duration_s = time.monotonic() - started
    expected = (undisturbed.state_hash(), undisturbed.log_digest())
    expected_csv = os.path.join(source, "expected_balances.csv")
    if os.path.exists(expected_csv):
        with open(expected_csv, encoding="utf-8") as file:
            require(undisturbed.ok("query", "balances", "--format", "csv") == file.read(),
                    "the balances are not what the generator expects")
    print(f"    {os.path.basename(source)}: undisturbed {duration_s:.2f} s, {expected[1][0]} events")
    leat, killed, attempts = context.leat(), 0, 0
    while killed < kills:
        attempts += 1
        require(attempts <= KILL_ATTEMPTS_MAX, f"only {killed} of {kills} kills came in time in {attempts} attempts")
        delay_s = context.random.uniform(0.02, 0.5) * duration_s
        ingest = subprocess.Popen(leat.command("ingest", "ethereum-etl", source, "--chain", CHAIN),
                                  stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        try:
            _, errors = ingest.communicate(timeout=delay_s)
        except subprocess.TimeoutExpired:
            ingest.kill()
            ingest.communicate()
            killed += 1
            print(f"    kill {killed} of {kills} after {delay_s * 1000:.0f} ms")
            continue
        require(ingest.returncode == OK, f"resuming ended with {ingest.returncode}:", errors.decode("utf-8", "replace"))
        equal((leat.state_hash(), leat.log_digest()), expected, f"(state, log) after {killed} kills")
        leat = context.leat()  # done before it could be killed: from the beginning again
    leat.ingest(source)
    equal((leat.state_hash(), leat.log_digest()), expected, f"(state, log) after {killed} kills")
    equal(leat.run("verify").code, OK, "exit code of verify after the kills")


@check
def rebuild(context):
    """The projection built anew equals the live one."""
    leat = context.copy()
    before = (leat.state_hash(), leat.state_hash("--at-block", 1000), leat.log_digest())
    leat.ok("project", "rebuild", "balances", "--compare")
    leat.ok("project", "rebuild", "balances")
    equal((leat.state_hash(), leat.state_hash("--at-block", 1000), leat.log_digest()), before, "state after a rebuild")
    leat.error("project", "rebuild", "no-such-projection", mentions=["no-such-projection", "balances"])


@check
def verify(context):
    """verify holds on what was written, also against an earlier root, and finds what was changed since."""
    leat = context.leat()
    leat.ingest(write_chain(context.path("first"), small_chain(3)))
    early = leat.json("verify")
    require(early.get("ok") is True and early.get("root"), "verify:", early)
    leat.ok("verify", "--root", early["root"])
    leat.ingest(write_chain(context.path("second"), small_chain(6)))
    late = leat.json("verify")
    require(late["root"] != early["root"], "the root did not move with the log")
    leat.ok("verify", "--root", late["root"])
    wrong = re.sub(r"[0-9a-f](?=[^0-9a-f]*$)", lambda match: "0" if match.group(0) != "0" else "1", late["root"])
    leat.error("verify", "--root", wrong, mentions=["root"])

    noted = context.base().json("verify")["root"]
    for attempt in range(3):
        tampered = context.copy()
        files = [os.path.join(folder, name) for folder, _, names in os.walk(tampered.data) for name in names
                 if re.search(r"\.(log|sst|blob)$", name)]
        require(files, "no data files in the data folder")
        victim = max(files, key=lambda path: (os.path.getsize(path), path))
        offset = context.random.randrange(os.path.getsize(victim) // 4, 3 * os.path.getsize(victim) // 4)
        with open(victim, "r+b") as file:
            file.seek(offset)
            octet = file.read(1)[0]
            file.seek(offset)
            file.write(bytes([octet ^ (1 << context.random.randrange(8))]))
        result = tampered.run("verify", "--root", noted)
        relative = os.path.relpath(victim, tampered.data)
        if result.code == OK:
            # What is derived can be read from elsewhere, or not at all: only the log itself has to show the change.
            print(f"    attempt {attempt}: a bit turned in {relative} at {offset} is not part of what verify reads")
            continue
        equal(result.code, OPERATING_ERROR, f"exit code of verify with a bit turned in {relative}")
        return
    raise Failed("three bits were turned in the largest data file, and verify found none")


def main():
    parser = argparse.ArgumentParser(description="end-to-end tests that drive the binary only")
    parser.add_argument("--leat", metavar="BIN")
    parser.add_argument("--sample", metavar="DIR", help="deploy/sample")
    parser.add_argument("--quick", action="store_true", help="fewer kills, no waiting for slow clients")
    parser.add_argument("--only", action="append", metavar="NAME", help="this check only; may be repeated")
    parser.add_argument("--seed", type=int, default=None, help="of the delays and bits; default: a new one, printed")
    parser.add_argument("--list", action="store_true", help="print the names of the checks")
    arguments = parser.parse_args()
    if arguments.list:
        for function in CHECKS:
            print(f"{function.__name__:<20} {function.__doc__}")
        return
    if not arguments.leat or not arguments.sample:
        parser.error("--leat and --sample are needed")
    unknown = set(arguments.only or ()) - {function.__name__ for function in CHECKS}
    if unknown:
        parser.error(f"no check is called {', '.join(sorted(unknown))}")
    if arguments.seed is None:
        arguments.seed = random.SystemRandom().randrange(2**32)
    print(f"seed {arguments.seed}", flush=True)

    counts = {"PASS": 0, "FAIL": 0, "SKIPPED": 0}
    with tempfile.TemporaryDirectory(prefix="leat-e2e-") as scratch:
        context = Context(arguments, scratch)
        for function in CHECKS:
            if arguments.only and function.__name__ not in arguments.only:
                continue
            started = time.monotonic()
            verdict, reason = "PASS", ""
            try:
                function(context)
            except Skipped as skipped:
                verdict, reason = "SKIPPED", f": {skipped}"
            except Failed as failed:
                verdict, reason = "FAIL", f": {failed}"
            except Exception:  # a check must not take the others with it
                verdict, reason = "FAIL", f": {traceback.format_exc()}"
            counts[verdict] += 1
            print(f"{verdict} {function.__name__} ({time.monotonic() - started:.1f} s){reason}", flush=True)
    print(f"{counts['PASS']} passed, {counts['FAIL']} failed, {counts['SKIPPED']} skipped (seed {arguments.seed})")
    sys.exit(1 if counts["FAIL"] else 0)


if __name__ == "__main__":
    main()
