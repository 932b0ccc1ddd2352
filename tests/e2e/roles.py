#!/usr/bin/env python3
"""Roles as processes on a broker: any split of them comes to the same as one process, whoever is killed or paused.

usage: roles.py --broker kafka|rabbitmq --leat BIN --sample DIR [--port N] [--rounds N] [--seed N]

Starts the broker by the project's own script on a port of its own, and wipes it at the end. A round ingests a chain (the same
facts under another name) through three processes that share the roles, and at a random moment kills -9, pauses or stops one of
them, kills one and deletes its shards, or kills the broker; what was ended is started again. Meanwhile all are asked for what is known. In the end the ordered log
of every decider and every balance are those of an undisturbed run on the embedded transport. Rounds: 9, one of each sort, with
LEAT_FULL=1 100. The seed is printed, and repeats a run as far as the machine lets it.
"""

import argparse
import base64
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request

from brokers import World, kafka_jars, outcome
from harness import Failed, Leat, equal, require

READY_S = 60
TAKEOVER_S = 15  # a session of 6 s, and what a busy machine takes
RECOVERY_S = 180
SAMPLE_S = 0.2
BLOCK_EVENTS = 8192  # of one chain of the sample


def chain(number):
    return f"eip155:{number}"


class Process:
    """`leat serve --role ...`: one of those that share the work."""

    def __init__(self, leat, name, *arguments):
        self.leat, self.name, self.arguments = leat, name, arguments
        self.process = None
        self.paused = False
        self.log_path = leat.data + ".log"
        self.start()

    def start(self):
        with open(self.log_path, "ab") as log:
            # A port of its own choice is told to others by the data folder.
            self.process = subprocess.Popen(self.leat.command("serve", "--instance", self.name, "--port", 0, *self.arguments),
                                            stdout=log, stderr=log, stdin=subprocess.DEVNULL)

    def kill(self):
        if self.process.poll() is not None:
            return
        self.resume()
        self.process.kill()
        self.process.wait()

    def pause(self):
        self.paused = True
        self.process.send_signal(signal.SIGSTOP)

    def resume(self):
        if self.paused:
            self.paused = False
            self.process.send_signal(signal.SIGCONT)

    def stop(self):
        self.resume()
        self.process.send_signal(signal.SIGTERM)
        require(self.process.wait(60) == 0, f"{self.name} ended with {self.process.returncode}: {self.log()[-2000:]}")

    def log(self):
        with open(self.log_path, encoding="utf-8", errors="replace") as file:
            return file.read()


class Deployment:
    """Processes on one broker, and a data folder of somebody who asks them."""

    def __init__(self, world, splits, settings=()):
        self.world = world
        self.user = world.on_broker()
        self.user.settings += [part for setting in settings for part in ("--set", setting)]
        self.processes = {}
        for name, arguments in splits.items():
            self.processes[name] = Process(self.of(name), name, *arguments)

    def of(self, name):
        other = self.world.on_broker()
        other.prefix, other.settings = self.user.prefix, self.user.settings
        return other

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        try:
            if kind is None:
                for process in self.processes.values():
                    process.stop()
        finally:
            for process in self.processes.values():
                process.kill()
            if kind is not None:
                for process in self.processes.values():
                    print(f"---- {process.name}\n{process.log()[-3000:]}")

    def owners(self):
        """(role, partition) -> instances that say they own it."""
        owners = {}
        for instance in self.user.json("cluster")["instances"]:
            for part in instance["parts"]:
                if part["state"] == "owned":
                    owners.setdefault((part["role"], part["partition"]), []).append(instance["instance"])
        return owners

    def claims(self):
        """The epochs of those who own a partition now, added up."""
        return sum(part["epoch"] for instance in self.user.json("cluster")["instances"] for part in instance["parts"]
                   if part["state"] == "owned")

    def wait_until(self, condition, what, timeout_s=READY_S):
        deadline = time.monotonic() + timeout_s
        begun = time.monotonic()
        while time.monotonic() < deadline:
            if condition():
                return time.monotonic() - begun
        raise Failed(f"{what}: not within {timeout_s} s; owners {self.owners()}")

    def wait_owned(self, partitions=1):
        roles = ("ingest", "ledger", "balances")
        wanted = {(role, i) for role in roles for i in range(partitions)}
        return self.wait_until(lambda: set(self.owners()) == wanted, "every partition is owned")


def ingest(leat, facts, number):
    return leat.command("ingest", "ethereum-etl", facts, "--chain", chain(number))


def expected_of(world, chains, partitions):
    """On the embedded transport, undisturbed: each chain's state, and the ordered digests."""
    leat = Leat(world.arguments.leat, os.path.join(world.folder, f"embedded-{len(chains)}-on-{partitions}"))
    for number in chains:
        leat.ok("--set", f"topics.partitions={partitions}", "ingest", "ethereum-etl", world.genesis, "--chain", chain(number))
    return state_of(leat, chains)


def state_of(leat, chains):
    return {**{chain(number): leat.state_hash("--chain", chain(number)) for number in chains},
            **{topic: leat.log_digest("--topic", topic) for topic in ("chain.blocks", "ledger.entries")}}


def supply_of_one(world):
    leat = Leat(world.arguments.leat, os.path.join(world.folder, "embedded-supply"))
    leat.ok("ingest", "ethereum-etl", world.genesis, "--chain", chain(1))
    return leat.json("query", "supply", "--chain", chain(1))["supply"]


def split(world):
    """Every role in a process of its own."""
    parts = {f"only-{role}": ("--role", role) for role in ("ingest", "ledger", "balances", "gateway")}
    with Deployment(world, parts) as deployment:
        deployment.wait_owned()
        deployment.user.ingest(world.genesis)
        one = Leat(world.arguments.leat, os.path.join(world.folder, "embedded"))
        one.ingest(world.genesis)
        equal(outcome(deployment.user), outcome(one), "every role in a process of its own")
        # The gateway has no part of its own, and answers all the same.
        gateway = deployment.processes["only-gateway"].leat
        equal(gateway.state_hash(), one.state_hash(), "the whole state through the gateway")
        equal(gateway.json("query", "supply"), one_without_incarnation(gateway, one), "the supply through the gateway")
        lag = gateway.json("lag")["lag"]
        equal([part["lag"] for part in lag], [0, 0, 0], "lag")
        if world.broker.name == "kafka":
            deployment.wait_until(lambda: all(one == 0 for one in kafka_lag(world, deployment.user)), "Kafka's own tool sees no lag")
            behind(world, deployment)
        reply = gateway.json("request", "leat.requests.balances", "--type", "gateway.request_forwarded.v1",
                             "--data", json.dumps({"method": "GET", "target": "/api/supply"}))
        equal(reply["type"], "gateway.request_answered.v1", "a request by hand")
        answer = json.loads(base64.b64decode(reply["data"]["body"]))
        equal(answer["supply"], one.json("query", "supply")["supply"], "and its answer")


def one_without_incarnation(gateway, one):
    """The embedded answer with the position of the broker's, which counts claims, too."""
    answer = one.json("query", "supply")
    answer["as_of"]["position"] = gateway.json("query", "supply")["as_of"]["position"]
    return answer


def behind(world, deployment):
    """While the balances are frozen, Kafka's own tool sees the lag that we do."""
    ledger, balances, gateway = (deployment.processes["only-" + role] for role in ("ledger", "balances", "gateway"))

    def standing():
        return {part["role"]: part for part in gateway.leat.json("lag")["lag"]}

    def ends(parts):
        return {role: part["end"] for role, part in parts.items()}

    for number in range(2, 12):
        published = standing()["ledger"]["end"] + BLOCK_EVENTS
        ledger.pause()
        waits = subprocess.Popen(ingest(deployment.user, world.genesis, number), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            deployment.wait_until(lambda: standing()["ledger"]["end"] >= published, "all blocks are published")
            balances.pause()
            ledger.resume()
            before, known = {}, None
            deadline = time.monotonic() + 3  # as long as a last heartbeat counts
            while known is None and time.monotonic() < deadline:
                parts = standing()
                if ends(parts) == ends(before) and parts["ledger"]["lag"] == 0 and parts["balances"]["lag"]:
                    known = parts
                before = parts
            if known is not None:
                lag = known["balances"]["lag"]
                deployment.wait_until(lambda: kafka_lag(world, deployment.user) == [0, 0, lag], f"Kafka's own tool sees a lag of {lag}")
                equal(ends(standing()), ends(known), "the ends of the topics meanwhile")
                print(f"  {lag} entries behind, and Kafka's own tool says so")
                return
        finally:
            ledger.resume()
            balances.resume()
        equal(waits.wait(READY_S), 0, "the ingest's exit code")
        deployment.wait_until(lambda: all(one == 0 for one in kafka_lag(world, deployment.user)), "Kafka's own tool sees no lag")
    raise Failed("the lag was never seen in time")


def kafka_lag(world, leat):
    """The lag of every role's group as Kafka's own tool prints it."""
    out = subprocess.run(["java", "-cp", kafka_jars(), "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand",
                          "--bootstrap-server", f"127.0.0.1:{world.broker.port}", "--describe", "--all-groups"],
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False)
    rows = [line.split() for line in out.stdout.splitlines() if line.startswith(leat.prefix + "leat.")]
    require(rows or out.returncode == 0, out.stderr)
    lags = {row[0]: row[5] for row in rows}
    return [int(lags[leat.prefix + "leat." + role]) if lags.get(leat.prefix + "leat." + role, "-").isdigit() else None
            for role in ("ingest", "ledger", "balances")]


def shared(world):
    """Two processes share four partitions; when one dies the other has them all."""
    chains = [1, 2, 3, 4, 5, 6]
    with Deployment(world, {"left": ("--standby",), "right": ("--standby",)}, ["topics.partitions=4"]) as deployment:
        deployment.wait_owned(4)
        deployment.wait_until(lambda: [len(of) for of in by_instance(deployment)] == [6, 6], "each has half of every role")
        for number in chains:
            deployment.user.ok("ingest", "ethereum-etl", world.genesis, "--chain", chain(number))
        one = expected_of(world, chains, 1)
        both = {chain(number): deployment.user.state_hash("--chain", chain(number)) for number in chains}
        equal(both, {name: one[name] for name in both}, "balances of chains on four partitions")
        # Each keeps a copy of what the other owns.
        deployment.wait_until(lambda: sorted(followed(deployment)) == sorted(deployment_all(4)), "each follows what the other owns")
        deployment.wait_until(lambda: streams(deployment, "left") == streams(deployment, "right"), "the logs of both hold the same")
        deployment.processes["left"].kill()
        took = deployment.wait_until(lambda: by_instance(deployment) == [deployment_all(4)], "the other has all")
        again = {chain(number): deployment.user.state_hash("--chain", chain(number)) for number in chains}
        equal(again, both, "answers of the one that took over")
        deployment.processes["left"].start()
        deployment.wait_until(lambda: [len(of) for of in by_instance(deployment)] == [6, 6], "each has half again")
        return took


def followed(deployment):
    """What any instance keeps a copy of."""
    return [(part["role"], part["partition"]) for instance in deployment.user.json("cluster")["instances"]
            for part in instance["parts"] if part["state"] == "following"]


def streams(deployment, name):
    """What the logs in a process's folder hold, its own and its copies."""
    return deployment.processes[name].leat.json("streams")["streams"]


def deployment_all(partitions):
    return {(role, i) for role in ("ingest", "ledger", "balances") for i in range(partitions)}


def by_instance(deployment):
    """What each instance owns; nothing while two claim the same."""
    owned = {}
    for part, owners in deployment.owners().items():
        if len(owners) != 1:
            return []
        owned.setdefault(owners[0], set()).add(part)
    return [owned[name] for name in sorted(owned)]


def late(world):
    """An owner of the ledger is frozen while what it decided waits in its send queue, is replaced, and goes on: what it sends
    then is behind its successor's, and changes nothing."""
    if world.broker.name != "kafka":  # whose producer can be told to wait
        return
    chains = []
    with Deployment(world, {"feed": ("--role", "ingest,balances,gateway")}) as deployment:
        for number in range(1, 6):
            old, new = f"old{number}", f"new{number}"
            chains.append(number)
            deployment.processes[old] = Process(deployment.of(old), old, "--role", "ledger", "--set", "kafka.linger.ms=3000")
            deployment.wait_owned()
            load = subprocess.Popen(ingest(deployment.user, world.genesis, number), stdout=subprocess.DEVNULL,
                                    stderr=subprocess.PIPE, stdin=subprocess.DEVNULL)
            try:
                feed = deployment.processes["feed"].leat
                deployment.wait_until(lambda: any(part["role"] == "ledger" and part["lag"] for part in feed.json("lag")["lag"]),
                                      "there are blocks to decide on")
                deployment.processes[old].pause()  # at some moment of the three seconds in which a batch is not sent
                deployment.processes[new] = Process(deployment.of(new), new, "--role", "ledger")
                _, errors = load.communicate(timeout=RECOVERY_S)
            finally:
                load.kill()
            require(load.returncode == 0, f"the ingest ended with {load.returncode}: {errors.decode()[-1500:]}")
            expected = expected_of(world, chains, 1)
            equal(state_of(deployment.user, chains), expected, "while the old owner is frozen")
            deployment.processes[old].resume()
            # It ends well, and before that what was in its queue is sent.
            deployment.processes[old].stop()
            count = late_work(world, deployment.user, 1)
            equal(state_of(deployment.user, chains), expected, "after the old owner went on")
            deployment.processes[new].stop()
            del deployment.processes[old], deployment.processes[new]
            if count:
                print(f"  {count:,} events of a frozen owner came behind its successor's, and changed nothing", flush=True)
                return
    raise Failed("no frozen owner had anything in its queue")


class Sampler:
    """Entries that the balances have, as whoever answers sees them; and whether a chain that is done with has the same supply
    whoever is asked, and whenever."""

    def __init__(self, deployment):
        self.deployment, self.samples, self.running = deployment, [], True
        self.supply = None  # of the first chain, once it is done with
        self.answers, self.wrong = 0, []
        self.begun = time.monotonic()
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        while self.running:
            best = None
            for process in self.deployment.processes.values():
                try:
                    with open(os.path.join(process.leat.data, "server.json"), encoding="utf-8") as file:
                        address = json.load(file)
                    with urllib.request.urlopen(f"http://127.0.0.1:{address['port']}/health", timeout=0.5) as answer:
                        value = json.load(answer)["balances"]["applied"]
                    best = value if best is None else max(best, value)
                    if self.supply is not None:
                        self.ask_supply(address["port"])
                except (OSError, ValueError, KeyError):
                    continue
            if best is not None:
                self.samples.append((time.monotonic() - self.begun, best))
            time.sleep(SAMPLE_S)

    def ask_supply(self, port):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/supply?chain={chain(1)}", timeout=0.5) as answer:
                supply = json.load(answer)["supply"]
        except urllib.error.HTTPError as error:
            if error.code != 503:
                self.wrong.append(f"{error.code}: {error.read()[:200]}")
            return
        self.answers += 1
        if supply != self.supply:
            self.wrong.append(supply)

    def stop(self):
        self.running = False
        self.thread.join()

    def rate(self, begin, end):
        seen = [(at, value) for at, value in self.samples if begin <= at <= end]
        if len(seen) < 2 or seen[-1][0] == seen[0][0]:
            return 0
        return max(0, seen[-1][1] - seen[0][1]) / (seen[-1][0] - seen[0][0])


def disturbed(world, rounds):
    """kill -9 of a random process or of the broker, losses of a process with all its shards, pauses, also of one whose send queues
    are full, and stops in order, under load."""
    # Who follows takes over warm, and who does not builds what it lacks from the topics.
    splits = {"p1": ("--role", "ingest,ledger,gateway", "--standby"),
              "p2": ("--role", "ledger,balances,gateway", "--standby"),
              "p3": ("--role", "ingest,balances,gateway")}
    chains = []
    done = {"kill": 0, "loss": 0, "pause": 0, "full": 0, "stop": 0}
    plan = []
    with Deployment(world, splits, [f"topics.partitions={world.arguments.partitions}"]) as deployment:
        deployment.wait_owned(world.arguments.partitions)
        claims = deployment.claims()
        sampler = Sampler(deployment)
        print(f"  {'round':>5} {'victim':<7} {'how':<5} {'at ms':>6} {'events/s before':>16} {'during 5 s':>11} {'after':>8} {'round s':>8}")
        while sum(done.values()) - done["stop"] < rounds or done["stop"] == 0:
            number = len(chains) + 1
            require(number < 5 * rounds + 20, f"only {done} came while something was to be done")
            chains.append(number)
            if not plan:  # few rounds, and each sort all the same
                plan = [("p1", "kill"), ("p2", "pause"), ("p3", "kill"), ("broker", "kill"), ("broker", "pause"), ("p2", "kill"),
                        (world.random.choice(["p1", "p3"]), "pause"), (world.random.choice(["p1", "p2", "p3"]), "full"),
                        (world.random.choice(["p1", "p2", "p3"]), "loss"),
                        (world.random.choice(["p1", "p2", "p3"]), "stop")]
                world.random.shuffle(plan)
            victim, how = plan.pop()
            delay_s = world.random.uniform(0.2, 1.5)
            begun = time.monotonic()
            load = subprocess.Popen(ingest(deployment.user, world.genesis, number), stdout=subprocess.DEVNULL,
                                    stderr=subprocess.PIPE, stdin=subprocess.DEVNULL)
            time.sleep(delay_s)
            at = time.monotonic() - sampler.begun
            if load.poll() is None:
                done[how] += 1
            if victim == "broker" and how == "pause":  # for longer than every session and lease
                world.broker.signal(signal.SIGSTOP)
                time.sleep(world.random.uniform(12, 15))
                world.broker.signal(signal.SIGCONT)
            elif victim == "broker":
                world.broker.call("kill")
                world.broker.call("start")
            elif how in ("kill", "loss"):
                deployment.processes[victim].kill()
                if how == "loss":
                    shutil.rmtree(os.path.join(deployment.processes[victim].leat.data, "shards"))
                deployment.processes[victim].start()
            elif how == "stop":
                deployment.processes[victim].stop()
                deployment.processes[victim].start()
            else:
                if how == "full":  # what it publishes meanwhile stays in its queues, and goes out when it is another's
                    world.broker.signal(signal.SIGSTOP)
                    time.sleep(1)
                deployment.processes[victim].pause()
                if how == "full":
                    world.broker.signal(signal.SIGCONT)
                # For longer than a session or a lease: another one takes over meanwhile.
                time.sleep(world.random.uniform(7, 9))
                deployment.processes[victim].resume()
            deadline = begun + RECOVERY_S
            while True:
                try:
                    _, errors = load.communicate(timeout=max(1, deadline - time.monotonic()))
                except subprocess.TimeoutExpired:
                    load.kill()
                    raise Failed(f"round {number}: the ingest did not go on within {RECOVERY_S} s") from None
                if load.returncode == 0:
                    break
                # It says what went wrong; what it had not been told is done by trying again.
                require(b"leat: error:" in errors and time.monotonic() < deadline,
                        f"round {number}: ingest ended with {load.returncode}: {errors.decode()[-1500:]}")
                load = subprocess.Popen(ingest(deployment.user, world.genesis, number), stdout=subprocess.DEVNULL,
                                        stderr=subprocess.PIPE, stdin=subprocess.DEVNULL)
            if number == 1:
                supply = supply_of_one(world)
                deployment.wait_until(lambda: deployment.user.json("query", "supply", "--chain", chain(1))["supply"] == supply,
                                      "the first chain's supply")
                sampler.supply = supply
            end = time.monotonic() - sampler.begun
            print(f"  {number:>5} {victim:<7} {how:<5} {delay_s * 1000:>6.0f} {sampler.rate(begun - sampler.begun, at):>16,.0f} "
                  f"{sampler.rate(at, at + 5):>11,.0f} {sampler.rate(at + 5, end):>8,.0f} {time.monotonic() - begun:>8.1f}", flush=True)
        sampler.stop()
        deployment.wait_owned(world.arguments.partitions)
        require(deployment.claims() > claims, "no partition was ever taken over")
        late = late_work(world, deployment.user, world.arguments.partitions)
        require(not sampler.wrong and sampler.answers > 0,
                f"{len(sampler.wrong)} wrong answers beside {sampler.answers}: {sampler.wrong[:5]}")
        equal(state_of(deployment.user, chains), expected_of(world, chains, world.arguments.partitions), f"after {rounds} rounds")
    print(f"  {done['kill']} kills, {done['loss']} losses of all shards, {done['pause']} pauses, {done['full']} with full queues, and {done['stop']} stops: nothing lost, "
          f"nothing twice, and in the same order, with {late:,} events of old owners behind their successors'; "
          f"{sampler.answers:,} answers meanwhile, all right", flush=True)


LATE_READ_MAX = 300_000  # of a partition


def sources(world, leat, topic, partition):
    """`source` of every event in a partition, in the partition's order, as a client of the broker has them that is not ours."""
    if world.broker.name == "kafka":
        with subprocess.Popen(["kcat", "-q", "-b", f"127.0.0.1:{world.broker.port}", "-C", "-e", "-o", "beginning", "-p", str(partition),
                               "-t", leat.prefix + topic, "-c", str(LATE_READ_MAX), "-f", "%h\n"], stdout=subprocess.PIPE,
                              encoding="utf-8", errors="replace") as process:
            for line in process.stdout:
                found = re.search(r"(?:^|,)ce_source=([^,\n]*)", line)
                if found:
                    yield found[1]
        return
    import pika
    connection = pika.BlockingConnection(pika.ConnectionParameters("127.0.0.1", world.broker.port))
    channel = connection.channel()
    channel.basic_qos(prefetch_count=1000)
    for count, (method, properties, _) in enumerate(channel.consume(f"{leat.prefix}.{topic}.{partition}", inactivity_timeout=5,
                                                                   arguments={"x-stream-offset": "first"})):
        if method is None or count == LATE_READ_MAX:
            break
        if count % 500 == 499:
            channel.basic_ack(method.delivery_tag, multiple=True)
        yield (properties.headers or {}).get("cloudEvents_source", "")
    try:
        connection.close()
    except pika.exceptions.AMQPError:
        pass  # who stops before the end gives back what it has, which streams refuse


def late_work(world, leat, partitions):
    """How many events old owners wrote behind one of a newer owner. That they change nothing is what everything else shows."""
    late = 0
    for topic in ("chain.blocks", "ledger.entries"):
        for partition in range(partitions):
            newest = 0
            for source in sources(world, leat, topic, partition):
                epoch = source.rpartition("/")[2]
                if not source.startswith("leat/") or not epoch.isdigit():
                    continue  # a claim's
                late += int(epoch) < newest
                newest = max(newest, int(epoch))
    return late


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--broker", choices=["kafka", "rabbitmq"], required=True)
    parser.add_argument("--leat", required=True)
    parser.add_argument("--sample", required=True)
    parser.add_argument("--port", type=int)
    parser.add_argument("--only", choices=["split", "shared", "late", "disturbed"])
    parser.add_argument("--rounds", type=int, default=100 if os.environ.get("LEAT_FULL") == "1" else 9)
    parser.add_argument("--partitions", type=int, default=2, help="while processes are killed (default: 2)")
    parser.add_argument("--seed", type=int, default=int(os.environ.get("LEAT_SEED", "1")))
    arguments = parser.parse_args()
    arguments.port = arguments.port or {"kafka": 19412, "rabbitmq": 19912}[arguments.broker]
    print(f"{arguments.broker}: {arguments.rounds} rounds, seed {arguments.seed} (LEAT_SEED)", flush=True)
    folder = tempfile.mkdtemp(prefix="leat-roles-")
    world = World(arguments, folder)
    world.random = random.Random(arguments.seed)
    try:
        world.broker.call("start")
        if arguments.only in (None, "split"):
            split(world)
            print("  every role in a process of its own: balances and log as in one process", flush=True)
        if arguments.only in (None, "shared"):
            took = shared(world)
            require(took < TAKEOVER_S, f"the other has all after {took:.1f} s")
            print(f"  two processes share four partitions; one killed, the other has all after {took:.1f} s", flush=True)
        if arguments.only in (None, "late"):
            late(world)
        if arguments.only in (None, "disturbed"):
            disturbed(world, arguments.rounds)
    except Exception as error:  # whatever it is, no broker is left behind
        print(f"FAILED: {error if isinstance(error, Failed) else repr(error)}", flush=True)
        print(f"the folder is kept: {folder}")
        world.broker.call("stop")
        return 1
    world.broker.call("wipe")
    shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
