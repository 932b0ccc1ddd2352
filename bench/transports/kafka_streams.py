#!/usr/bin/env python3
"""Balances per account from a Kafka topic: the product beside Kafka Streams, on the same topic in turns.

usage: bench/transports/kafka_streams.py --bootstrap HOST:PORT [--events N] [--accounts A] [--rounds R] [--build DIR]
           [--threads T]                         (deploy/kafka start; build bench_kafka_streams; Maven and a JDK 17)

Loads a topic of 4 partitions, keyed by account, one leg a message, once (bench_kafka_streams load says what is in it).
Then, R times in turns, each from nothing: the product's balances projection (bench_kafka_streams run), Kafka Streams
(bench/peers/kafka-streams) with exactly_once_v2, and with at_least_once, on T threads (default: 2, at which it is fastest on 2 cores).
The final balances of every run are compared. Time is that of the job: for the peer from its first record to its last,
so neither the start of the JVM nor joining the group nor its last commit counts; for us from before the first fetch to
the last commit. CPU is of the whole process, with its start.

What each has synced when it says that it is done is printed at the end.
"""

import argparse
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PEER = os.path.join(ROOT, "bench", "peers", "kafka-streams")
SYNCED = """What is on the disk when a run says it is done: neither syncs. Ours has written rows and the input position beside them in one batch of
RocksDB, with its write-ahead log: a crash of the process loses nothing, a power loss sets rows and position back together. The
peer's changelog and offsets are with the broker (exactly_once_v2: in one transaction), which does not sync either; its store has
no write-ahead log, and is restored from the changelog after a crash."""
JVM = ["-Xms1g", "-Xmx2g", "-Dorg.slf4j.simpleLogger.defaultLogLevel=error"]


def build_peer():
    subprocess.run(["mvn", "--quiet", "--batch-mode", "--file", os.path.join(PEER, "pom.xml"), "package",
                    "dependency:copy-dependencies", "-DincludeScope=runtime", "-DoutputDirectory=target/lib"], check=True)


def run(command, out):
    """Seconds of the job, CPU seconds of the process, and the balances, sorted."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    output = process.stdout.read()
    _, status, used = os.wait4(process.pid, 0)
    found = re.search(r"^seconds ([0-9.]+)", output, re.MULTILINE)
    if status != 0 or not found:
        sys.exit(f"error: {command[0]} failed: {output}")
    with open(out, encoding="ascii") as file:
        return float(found.group(1)), used.ru_utime + used.ru_stime, sorted(file)


def main():
    parser = argparse.ArgumentParser(description="balances from a Kafka topic, beside Kafka Streams")
    parser.add_argument("--bootstrap", required=True)
    parser.add_argument("--events", type=int, default=2_000_000)
    parser.add_argument("--accounts", type=int, default=94_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--build", default=os.path.join(ROOT, "build", "release"))
    arguments = parser.parse_args()
    build_peer()
    binary = os.path.join(arguments.build, "bench_kafka_streams")
    topic = f"bench-balances-{time.time_ns()}"
    common = [arguments.bootstrap, topic, str(arguments.events)]
    subprocess.run([binary, "load", *common, str(arguments.accounts)], check=True)
    print(f"topic {topic}: {arguments.events} events, 4 partitions; load average {os.getloadavg()[0]:.1f}", flush=True)

    classes = os.path.join(PEER, "target", "classes") + ":" + os.path.join(PEER, "target", "lib", "*")
    measured = {"leat": [], "exactly_once_v2": [], "at_least_once": []}
    reference = None
    for number in range(arguments.rounds):
        for name, runs in measured.items():
            folder = tempfile.mkdtemp(prefix="leat-bench-")
            state, out = os.path.join(folder, "state"), os.path.join(folder, "out")
            if name == "leat":
                command = [binary, "run", *common, state, out]
            else:
                command = ["java", *JVM, "-cp", classes, "leat.bench.Balances", *common, name, str(arguments.threads),
                           state, out]
            seconds, cpu, balances = run(command, out)
            shutil.rmtree(folder)
            if reference is None:
                reference = balances
            if balances != reference:
                sys.exit(f"error: the balances of {name} in round {number + 1} are not those of the first run")
            runs.append((seconds, cpu))
            print(f"round {number + 1}: {name:16} {arguments.events / seconds:9,.0f}/s  {seconds:6.2f} s  "
                  f"CPU {cpu:5.1f} s", flush=True)

    medians = {name: statistics.median(seconds for seconds, _ in runs) for name, runs in measured.items()}
    print(f"\nmedians of {arguments.rounds}, {len(reference)} balances equal in all runs, load average "
          f"{os.getloadavg()[0]:.1f}")
    for name, seconds in medians.items():
        print(f"  {name:16} {arguments.events / seconds:9,.0f}/s  leat is {seconds / medians['leat']:.2f} times as fast")
    print(SYNCED)
    times = {name: seconds / medians["leat"] for name, seconds in medians.items()}
    missed = [name for name, met in (("exactly_once_v2", times["exactly_once_v2"] >= 3),
                                     ("at_least_once", times["at_least_once"] > 1)) if not met]
    print(f"MISSED, beside {', '.join(missed)}" if missed else "met: 3 times exactly_once_v2, and more than at_least_once")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
