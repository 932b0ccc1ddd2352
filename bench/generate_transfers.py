#!/usr/bin/env python3
"""Writes seeded transfers as ethereum-etl files: the load of the ingest benchmark, and what must come of it.

usage: bench/generate_transfers.py OUT [--transfers N] [--accounts A] [--seed S] [--transactions-per-block T]

Payers and payees are drawn from a Zipf distribution (exponent 1) over A accounts. OUT gets blocks.csv,
transactions.csv, receipts.csv, traces.csv (genesis grants, so that nobody goes below zero, and block rewards), each
ready for `leat ingest ethereum-etl OUT`, and beside them, for the check afterwards, expected_balances.csv: the header
address,balance_wei and the balances other than zero, sorted by address. The same arguments give the same bytes.
"""

import argparse
import bisect
import hashlib
import itertools
import math
import os
import random
import sys
import time
from array import array

GAS_PER_TRANSFER = 21000
WEI_PER_GWEI = 10**9
REWARD_WEI = 2 * 10**18
# Of 53 random bits: about 0.009 ether at most. Random digits, so that no file or log compresses better than real ones.
VALUE_WEI_MAX = 2**53
GAS_PRICE_WEI_MIN = 10 * WEI_PER_GWEI
GAS_PRICE_WEI_MAX = 60 * WEI_PER_GWEI
GAS_PRICES = 4096  # how many different ones there are
MINERS = 16
GENESIS_TIME_S = 1438269973
BLOCK_INTERVAL_S = 13
BLOCKS_PER_WRITE = 64
GAS_LIMIT_MIN = 8_000_000
ZERO_HASH = "0x" + "0" * 64
EMPTY_UNCLES = "0x1dcc4de8dec75d7aab85b567b6ccd41ad312451b948a7413f0a142fd40d49347"
EMPTY_TRIE = "0x56e81f171bcc55a6ff8345e692c0f86e5b48e01b996cadc001622fb5e363b421"
HASH_BYTES = 32
HASH_DIGITS = 2 * HASH_BYTES

BLOCK_COLUMNS = ("number,hash,parent_hash,nonce,sha3_uncles,transactions_root,state_root,receipts_root,miner,"
                 "difficulty,total_difficulty,extra_data,gas_limit,gas_used,timestamp,transaction_count,"
                 "base_fee_per_gas")
TRANSACTION_COLUMNS = ("hash,nonce,block_hash,block_number,transaction_index,from_address,to_address,value,gas,"
                       "gas_price,input,block_timestamp,max_fee_per_gas,max_priority_fee_per_gas,transaction_type")
RECEIPT_COLUMNS = ("transaction_hash,transaction_index,block_hash,block_number,cumulative_gas_used,gas_used,"
                   "contract_address,root,status,effective_gas_price")
TRACE_COLUMNS = ("block_number,transaction_hash,transaction_index,from_address,to_address,value,input,output,"
                 "trace_type,call_type,reward_type,gas,gas_used,subtraces,trace_address,error,status,trace_id")


def address(seed, kind, index):
    return "0x" + hashlib.sha256(f"{seed}|{kind}|{index}".encode()).hexdigest()[:40]


def block_hash(seed, number):
    return "0x" + hashlib.sha256(f"{seed}|{number}".encode()).hexdigest()


def zipf_cumulative(accounts):
    return array("d", itertools.accumulate(1.0 / rank for rank in range(1, accounts + 1)))


def sends_bound(transfers, total_weight, rank):
    """How often an account may pay: far more than it will, by more than ten standard deviations."""
    mean = transfers / (rank * total_weight)
    return math.ceil(mean + 12 * math.sqrt(mean) + 40)


class Output:
    """The four files, written in large pieces."""

    def __init__(self, folder):
        os.makedirs(folder, exist_ok=True)
        self.folder = folder
        self.files = {}
        for name, columns in (("blocks", BLOCK_COLUMNS), ("transactions", TRANSACTION_COLUMNS),
                              ("receipts", RECEIPT_COLUMNS), ("traces", TRACE_COLUMNS)):
            self.files[name] = open(os.path.join(folder, name + ".csv"), "w", encoding="ascii", newline="",
                                    buffering=1 << 20)
            self.files[name].write(columns + "\n")

    def write(self, name, text):
        self.files[name].write(text)

    def close(self):
        for file in self.files.values():
            file.close()

    def size(self):
        return sum(os.path.getsize(file.name) for file in self.files.values())


def block_row(seed, number, miner, gas_used, transactions):
    parent = block_hash(seed, number - 1) if number else ZERO_HASH
    root = EMPTY_TRIE if transactions == 0 else block_hash(seed, f"transactions|{number}")
    receipts_root = EMPTY_TRIE if transactions == 0 else block_hash(seed, f"receipts|{number}")
    # Difficulty is 1, so the total is one more than the number. No base fee: as before London.
    return (f"{number},{block_hash(seed, number)},{parent},0x0000000000000000,{EMPTY_UNCLES},{root},"
            f"{block_hash(seed, f'state|{number}')},{receipts_root},{miner},1,{number + 1},0x,"
            f"{max(GAS_LIMIT_MIN, gas_used)},{gas_used},{GENESIS_TIME_S + number * BLOCK_INTERVAL_S},{transactions},\n")


def write_genesis(output, seed, addresses, transfers, total_weight):
    """Block 0, which grants every account what it may spend at most; answers the grants."""
    spend_wei_max = VALUE_WEI_MAX + GAS_PER_TRANSFER * GAS_PRICE_WEI_MAX
    grants = [sends_bound(transfers, total_weight, rank) * spend_wei_max for rank in range(1, len(addresses) + 1)]
    output.write("blocks", block_row(seed, 0, "0x" + "0" * 40, 0, 0))
    for first in range(0, len(addresses), 10000):
        output.write("traces", "".join(
            f"0,,,,{addresses[index]},{grants[index]},,,genesis,,,,,0,,,1,genesis_0_{index}\n"
            for index in range(first, min(first + 10000, len(addresses)))))
    return grants


def generate(arguments, progress):
    seed, transfers, accounts = arguments.seed, arguments.transfers, arguments.accounts
    generator = random.Random(seed)
    addresses = [address(seed, "account", index) for index in range(accounts)]
    miners = [address(seed, "miner", index) for index in range(MINERS)]
    cumulative = zipf_cumulative(accounts)
    total_weight = cumulative[-1]
    output = Output(arguments.out)
    balances = write_genesis(output, seed, addresses, transfers, total_weight)
    miner_balances = [0] * MINERS
    nonces = array("I", bytes(4 * accounts))

    price_step = (GAS_PRICE_WEI_MAX - GAS_PRICE_WEI_MIN) // GAS_PRICES
    prices = [GAS_PRICE_WEI_MIN + step * price_step + 1 for step in range(GAS_PRICES)]
    # What the same price or index always looks like, made once.
    price_texts = [str(price) for price in prices]
    fees = [price * GAS_PER_TRANSFER for price in prices]
    transaction_ends = [f",{GAS_PER_TRANSFER},{price},0x," for price in price_texts]
    gas_texts = [f",{(index + 1) * GAS_PER_TRANSFER},{GAS_PER_TRANSFER},,,1,"
                 for index in range(arguments.transactions_per_block)]
    search, draw, bits = bisect.bisect_left, generator.random, generator.getrandbits

    written = 0
    number = 0
    pieces = {"blocks": [], "transactions": [], "receipts": [], "traces": []}

    def flush():
        for name, lines in pieces.items():
            output.write(name, "".join(lines))
            lines.clear()

    while written < transfers:
        number += 1
        count = min(arguments.transactions_per_block, transfers - written)
        this_hash = block_hash(seed, number)
        timestamp = GENESIS_TIME_S + number * BLOCK_INTERVAL_S
        # One call makes the hashes of the whole block: as random as real ones, and much faster than one by one.
        digits = hashlib.shake_128(f"{seed}|transactions of|{number}".encode()).hexdigest(HASH_BYTES * count)
        transaction_tail = f"{timestamp},,,0\n"
        in_block = f",{this_hash},{number},"
        transaction_lines = pieces["transactions"]
        receipt_lines = pieces["receipts"]
        block_fees = 0
        for index in range(count):
            payer = search(cumulative, draw() * total_weight)
            payee = search(cumulative, draw() * total_weight)
            noise = bits(65)
            value = noise >> 12
            price = noise & 4095
            nonce = nonces[payer]
            nonces[payer] = nonce + 1
            fee = fees[price]
            balances[payer] -= value + fee
            balances[payee] += value
            block_fees += fee
            name = "0x" + digits[index * HASH_DIGITS:(index + 1) * HASH_DIGITS]
            transaction_lines.append(f"{name},{nonce}{in_block}{index},{addresses[payer]},{addresses[payee]},{value}"
                                     f"{transaction_ends[price]}{transaction_tail}")
            receipt_lines.append(f"{name},{index}{in_block[:-1]}{gas_texts[index]}{price_texts[price]}\n")
        miner = int(this_hash[2:4], 16) % MINERS
        miner_balances[miner] += block_fees + REWARD_WEI
        pieces["blocks"].append(block_row(seed, number, miners[miner], count * GAS_PER_TRANSFER, count))
        pieces["traces"].append(f"{number},,,,{miners[miner]},{REWARD_WEI},,,reward,,block,,,0,,,1,reward_{number}_0\n")
        written += count
        if number % BLOCKS_PER_WRITE == 0:
            flush()
            progress(written)
    flush()
    output.close()
    check_sends(nonces, transfers, total_weight)
    write_expected(arguments.out, itertools.chain(zip(addresses, balances), zip(miners, miner_balances)))
    return number, output.size()


def check_sends(nonces, transfers, total_weight):
    """Nobody paid more often than its grant allows, so nobody was ever below zero, whatever the order."""
    for index, sends in enumerate(nonces):
        if sends > sends_bound(transfers, total_weight, index + 1):
            sys.exit(f"error: account {index} paid {sends} times, more than its grant covers (take another seed)")


def write_expected(folder, balances):
    rows = sorted((name, balance) for name, balance in balances if balance)
    with open(os.path.join(folder, "expected_balances.csv"), "w", encoding="ascii", newline="") as file:
        file.write("address,balance_wei\n")
        file.writelines(f"{name},{balance}\n" for name, balance in rows)


def positive(text):
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value


def main():
    parser = argparse.ArgumentParser(description="writes seeded transfers as ethereum-etl files")
    parser.add_argument("out", metavar="OUT", help="folder for the files")
    parser.add_argument("--transfers", type=positive, default=10_000_000)
    parser.add_argument("--accounts", type=positive, default=1_000_000)
    parser.add_argument("--seed", type=int, default=20150730)
    parser.add_argument("--transactions-per-block", type=positive, default=200)
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}: {arguments.transfers} transfers, Zipf over {arguments.accounts} accounts",
          flush=True)
    started = shown = time.monotonic()

    def progress(written):
        nonlocal shown
        now = time.monotonic()
        if now - shown >= 5:
            shown = now
            print(f"{written} transfers, {written / (now - started):.0f}/s", flush=True)

    blocks, size = generate(arguments, progress)
    seconds = time.monotonic() - started
    rows = 2 * arguments.transfers + 2 * blocks + 1 + arguments.accounts
    print(f"{arguments.out}: {blocks + 1} blocks, {rows} rows, {size / 2**20:.0f} MiB in {seconds:.1f} s: "
          f"{arguments.transfers / seconds:.0f} transfers/s, {rows / seconds:.0f} rows/s")


if __name__ == "__main__":
    main()
