#!/usr/bin/env python3
"""kill -9 of the process that has the ledger, under load on Kafka: how long until it is worked on again; beside Kafka Streams.

usage: python3 bench/transports/recovery.py --build build/release [--rounds N] [--transfers N] [--port N] [--peer-rounds N]
           (builds of leat and bench_kafka_streams; for the peer Maven and a JDK 17)

Three processes: one has the feed, the balances and the gateway, one the ledger, and in the second case a third one a warm copy
of it. Seeded transfers are ingested through the first; in mid-traffic the second is killed, and started again at once (case
one) or not at all (case two). Measured is the time from the kill to the first posting that a new owner published, by the
timestamps that the broker keeps of its messages. Every balance is compared in the end.

The peer (bench/peers/kafka-streams, exactly_once_v2, the job of kafka_streams.py) is killed some seconds after its first record
and started again at once, with the state that it had: once as it is by default, once with a session timeout of 6 s, which is
ours. Measured is the time from the kill to its first record.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "tests", "e2e"))

from brokers import World  # noqa: E402
from harness import Leat  # noqa: E402
from kafka_streams import JVM, PEER, build_peer  # noqa: E402
from roles import Deployment, Process  # noqa: E402

CHAIN = "eip155:1"
SESSION_S = 6  # kafka.session.timeout.ms, as it is by default
PEER_EVENTS = 2_000_000
PEER_KILLED_AFTER_S = 3
QUIET = "-Dorg.slf4j.simpleLogger.defaultLogLevel=off"  # a task that was killed is told as an error


def epochs(world, leat):
    """When each owner of the ledger's partition published its first posting."""
    out = subprocess.run(["kcat", "-q", "-b", f"127.0.0.1:{world.broker.port}", "-C", "-e", "-o", "beginning", "-t",
                          leat.prefix + "ledger.entries", "-f", "%T %h\n"], stdout=subprocess.PIPE, check=True).stdout
    first = {}
    for line in out.decode("utf-8", "replace").splitlines():
        stamp, _, rest = line.partition(" ")
        headers = dict(pair.partition("=")[::2] for pair in rest.split(","))
        if headers.get("ce_type", "").startswith("runtime."):
            continue
        first.setdefault(int(headers["ce_source"].rsplit("/", 1)[1]), int(stamp) / 1000)
    return first


def measure(world, files, standby, expected):
    splits = {"feed": ("--role", "ingest,balances,gateway"), "one": ("--role", "ledger")}
    with Deployment(world, splits) as deployment:
        deployment.wait_owned()
        if standby:
            deployment.processes["two"] = Process(deployment.of("two"), "two", "--role", "ledger", "--standby")
            deployment.wait_until(lambda: any(
                part["state"] == "following" for instance in deployment.user.json("cluster")["instances"]
                for part in instance["parts"]), "the copy follows")
        load = subprocess.Popen(deployment.of("load").command("ingest", "ethereum-etl", files, "--chain", CHAIN),
                                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        owner = "one"
        deployment.wait_until(lambda: (deployment.user.json("lag")["lag"][1]["done"] or 0) > 100, "the ledger works")
        before = deployment.owners()[("ledger", 0)]
        if before == ["two"]:
            owner = "two"
        time.sleep(0.3)
        killed = time.time()
        deployment.processes[owner].kill()
        if not standby:
            deployment.processes[owner].start()
        if load.wait() != 0:
            raise SystemExit("the ingest failed")
        if deployment.user.state_hash() != expected:
            raise SystemExit("the balances are wrong")
        seen = epochs(world, deployment.user)
        after = [at for at in seen.values() if at >= killed]
        if not after:
            raise SystemExit("the kill came too late: give it more transfers")
        if standby:
            deployment.processes.pop(owner)
        return min(after) - killed


class Peer:
    """Kafka Streams on a topic."""

    def __init__(self, world, topic, folder, session_ms):
        classes = os.path.join(PEER, "target", "classes") + ":" + os.path.join(PEER, "target", "lib", "*")
        self.command = ["java", *JVM, QUIET, "-cp", classes, "leat.bench.Balances", f"127.0.0.1:{world.broker.port}", topic,
                        str(PEER_EVENTS), "exactly_once_v2", "2", os.path.join(folder, "state"), os.path.join(folder, "out"),
                        "bench-" + os.path.basename(folder), str(session_ms)]
        self.start()

    def start(self):
        self.process = subprocess.Popen(self.command, stdout=subprocess.PIPE, text=True)

    def first(self):
        """When it had its first record."""
        for line in self.process.stdout:
            if line.startswith("first "):
                return int(line.split()[1]) / 1000
        raise SystemExit(f"the peer ended with {self.process.wait()}")

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


def measure_peer(world, topic, session_ms):
    folder = tempfile.mkdtemp(prefix="peer-", dir=world.folder)
    peer = Peer(world, topic, folder, session_ms)
    try:
        peer.first()
        time.sleep(PEER_KILLED_AFTER_S)
        killed = time.time()
        peer.kill()
        peer.start()
        return peer.first() - killed
    finally:
        peer.kill()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", default=os.path.join(ROOT, "build", "release"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peer-rounds", type=int, default=1)
    parser.add_argument("--transfers", type=int, default=600_000)
    parser.add_argument("--port", type=int, default=19432)
    arguments = parser.parse_args()
    arguments.leat = os.path.join(arguments.build, "leat")
    build_peer()
    folder = tempfile.mkdtemp(prefix="leat-recovery-")
    arguments.broker, arguments.seed, arguments.sample = "kafka", 1, ROOT
    world = World(arguments, folder)
    try:
        files = os.path.join(folder, "etl")
        subprocess.run([sys.executable, os.path.join(ROOT, "bench", "generate_transfers.py"), "--transfers",
                        str(arguments.transfers), "--accounts", "20000", files], check=True, stdout=subprocess.DEVNULL)
        reference = Leat(arguments.leat, os.path.join(folder, "reference"))
        reference.ok("ingest", "ethereum-etl", files, "--chain", CHAIN)
        expected = reference.state_hash()
        world.broker.call("start")
        results = {}

        def show(name):
            print(f"{name}: median {statistics.median(results[name]):.2f} s of {', '.join(f'{one:.2f}' for one in results[name])}",
                  flush=True)

        missed = []
        for name, standby, most_s in (("the same instance, started again", False, 2),
                                      ("another instance with a standby", True, SESSION_S + 2)):
            results[name] = [measure(world, files, standby, expected) for _ in range(arguments.rounds)]
            show(name)
            if statistics.median(results[name]) > most_s:
                missed.append(name)
        topic = "bench-recovery"
        subprocess.run([os.path.join(arguments.build, "bench_kafka_streams"), "load", f"127.0.0.1:{arguments.port}", topic,
                        str(PEER_EVENTS)], check=True)
        for name, session_ms in (("Kafka Streams by default", 0), ("Kafka Streams with a session of 6 s", 6000)):
            results[name] = [measure_peer(world, topic, session_ms) for _ in range(arguments.peer_rounds)]
            show(name)
        print(json.dumps({"load": os.getloadavg()[0], **results}))
        print(f"MISSED: {', '.join(missed)}" if missed else "met: 2 s started again, session + 2 s with a standby")
        return 1 if missed else 0
    finally:
        world.broker.call("wipe")
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
