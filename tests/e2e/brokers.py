#!/usr/bin/env python3
"""The same system on a broker: the golden balances through its topics, and the same log and state as embedded, over kills.

usage: brokers.py --broker kafka|rabbitmq --leat BIN --sample DIR [--port N] [--rounds N] [--seed N]

Starts the broker by the project's own script on a port of its own, and wipes it at the end. A round kills -9 the broker or
an ingest at a random moment under load, starts what was killed again, and goes on; in the end every acknowledged event is in
the log exactly once and every balance is right. Rounds: 5, with LEAT_FULL=1 100. The seed is printed, and repeats a run as far
as the machine lets it.
"""

import argparse
import base64
import copy
import fcntl
import glob
import hashlib
import json
import os
import random
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time

from harness import CHAIN, Failed, Leat, equal, require

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
HEIGHTS = (0, 1000, 8191)
RECOVERY_S = 120
DECIDED_READ = 200
RETURNING = re.compile("down or inaccessible|does not have a replica|is not known yet|no confirm within")


class Broker:
    """Beside its plain listener it has one with TLS at the third port, which on Kafka wants a user, and on RabbitMQ a client's
    certificate."""

    def __init__(self, name, port, folder):
        self.name, self.port, self.folder = name, port, folder
        self.tls_port = port + 3
        self.certificates = os.path.join(folder, "certificates")
        subprocess.run([os.path.join(ROOT, "tests", "support", "certificates"), self.certificates], check=True)
        self.properties = os.path.join(folder, "properties")
        with open(self.properties, "w", encoding="utf-8") as file:
            file.write({"kafka": self.kafka_properties, "rabbitmq": self.rabbitmq_properties}[name]())

    def kafka_properties(self):
        plain, tls = f"127.0.0.1:{self.port}", self.tls_port
        return (f"listeners=PLAINTEXT://{plain},CONTROLLER://127.0.0.1:{self.port + 1},SASL_SSL://127.0.0.1:{tls}\n"
                f"advertised.listeners=PLAINTEXT://{plain},SASL_SSL://localhost:{tls}\n"
                f"ssl.keystore.type=PEM\nssl.keystore.location={self.certificates}/server-chain.pem\n"
                "sasl.enabled.mechanisms=PLAIN\nlistener.name.sasl_ssl.plain.sasl.jaas.config="
                'org.apache.kafka.common.security.plain.PlainLoginModule required user_somebody="open";\n')

    def rabbitmq_properties(self):
        return (f"listeners.ssl.1 = 127.0.0.1:{self.tls_port}\nssl_options.cacertfile = {self.certificates}/ca.pem\n"
                f"ssl_options.certfile = {self.certificates}/server.pem\nssl_options.keyfile = {self.certificates}/server.key\n"
                "ssl_options.verify = verify_peer\nssl_options.fail_if_no_peer_cert = true\n")

    def call(self, verb):
        done = subprocess.run([os.path.join(ROOT, "deploy", self.name), verb, "--port", str(self.port), "--dir",
                               os.path.join(self.folder, self.name), "--properties", self.properties],
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        require(done.returncode == 0, f"deploy/{self.name} {verb}: {done.stdout}")
        return done.stdout

    def rabbitmqctl(self, *arguments):
        """The one behind Debian's wrapper, which changes user and environment."""
        files = subprocess.run(["dpkg", "-L", "rabbitmq-server"], stdout=subprocess.PIPE, text=True, check=True).stdout
        tool, = re.findall(r"^\S*/lib/\S*/sbin/rabbitmqctl$", files, re.MULTILINE)
        folder = os.path.join(self.folder, self.name)
        subprocess.run([tool, *arguments], check=True, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL,
                       env={"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "HOME": folder,
                            "RABBITMQ_CONF_ENV_FILE": os.path.join(folder, "env.conf"),
                            "RABBITMQ_NODENAME": f"leat{self.port}@localhost", "ERL_EPMD_PORT": str(self.port + 2)})

    def signal(self, number):
        with open(os.path.join(self.folder, self.name, self.name + ".pid"), encoding="utf-8") as file:
            os.kill(int(file.read().split()[0]), number)


class OnBroker(Leat):
    """The binary on a data folder whose topics are on the broker."""

    def __init__(self, binary, data, broker, prefix):
        super().__init__(binary, data)
        settings = {"kafka": [f"kafka.bootstrap.servers=127.0.0.1:{broker.port}", f"topics.prefix={prefix}"],
                    "rabbitmq": [f"rabbitmq.port={broker.port}", f"topics.prefix={prefix}"]}
        self.settings = [part for setting in settings[broker.name] for part in ("--set", setting)]
        self.transport = broker.name
        self.prefix = prefix

    def command(self, *arguments):
        return [self.binary, "--data", self.data, "--transport", self.transport, *self.settings, *map(str, arguments)]


    def on_other_folder(self):
        other = copy.copy(self)
        other.data += "-other"
        os.makedirs(other.data)
        # A folder of the same installation: it has a format, and no shard yet.
        for name in ("format", "transport"):
            shutil.copy(os.path.join(self.data, name), other.data)
        return other


def owned_by(leat):
    """How many events the topics with an owner hold, claims among them."""
    return {topic["topic"]: topic["events"] for topic in leat.json("topics")["topics"]
            if topic["topic"] in ("chain.blocks", "ledger.entries")}


class World:
    def __init__(self, arguments, folder):
        self.arguments, self.folder = arguments, folder
        self.broker = Broker(arguments.broker, arguments.port, folder)
        self.random = random.Random(arguments.seed)
        self.genesis = os.path.join(arguments.sample, "mainnet_genesis")
        self.count = 0

    def on_broker(self):
        self.count += 1
        return OnBroker(self.arguments.leat, os.path.join(self.folder, f"data{self.count}"), self.broker, f"w{self.count}" + ("." if self.broker.name == "kafka" else ""))


def outcome(leat):
    """All that can be seen of the pipeline: the state at three heights and the ordered digests of its topics."""
    return [leat.state_hash("--at-block", height) for height in HEIGHTS] + [
        leat.log_digest("--topic", topic) for topic in ("chain.blocks", "ledger.entries")]


def embedded(world):
    """Undisturbed, on the embedded transport: what everything else has to come to."""
    leat = Leat(world.arguments.leat, os.path.join(world.folder, "embedded"))
    leat.ingest(world.genesis)
    return outcome(leat)


def undisturbed(world, expected):
    leat = world.on_broker()
    leat.ingest(world.genesis)
    equal(outcome(leat), expected, "undisturbed")
    leat.ingest(world.genesis)
    equal(outcome(leat), expected, "ingested twice")
    # A question takes nothing away: not one claim more, while another data folder on the same topics answers it.
    claims = owned_by(leat)
    other = leat.on_other_folder()
    equal(outcome(other), expected, "another data folder on the same topics")
    equal(owned_by(leat), claims, "claims after questions")
    # Another data folder has nothing but the broker's topics, and comes to the same.
    shutil.rmtree(os.path.join(leat.data, "shards"))
    leat.ingest(world.genesis)
    leat.ok("verify")
    equal(outcome(leat), expected, "all shards deleted, and rebuilt from their topics")
    Leat(leat.binary, leat.data).error("--transport", "embedded", "topics", mentions=["data folder is of transport"])
    leat.error("--set", "topics.partitions=4", "topics", mentions=["chain.blocks has 1", "topics.partitions=1"])
    # What a transport does not have is refused, not passed over.
    if leat.transport != "kafka":
        for setting in ("topics.retention_ms", "topics.replication"):
            leat.error("--set", f"{setting}=1000", "topics", mentions=[setting, "rabbitmq has no such setting", "kafka"])


class Publisher:
    """Publishes one event after the other all the time, and knows which were acknowledged."""

    def __init__(self, leat):
        self.leat, self.acknowledged, self.tried, self.running = leat, [], 0, True
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        while self.running:
            self.tried += 1
            name = f"acknowledged-{self.tried}"
            event = {"specversion": "1.0", "id": name, "source": "//e2e", "type": "chain.block_reverted.v1",
                     "data": {"chain": "eip155:5", "number": "7"}}
            if self.leat.run("publish", "acknowledged", stdin=json.dumps(event) + "\n").code == 0:
                self.acknowledged.append(name)
            time.sleep(0.05)

    def check(self):
        self.running = False
        self.thread.join()
        there = [event["id"] for event in self.leat.lines("replay", "--topic", "acknowledged")]
        lost = set(self.acknowledged) - set(there)
        require(not lost and self.acknowledged, f"{len(lost)} of {len(self.acknowledged)} acknowledged events are lost:", lost)
        # What came to nothing is published again under another id.
        require(len(there) == len(set(there)), "there are some twice:", there)
        print(f"  {len(self.acknowledged)} of {self.tried} events published meanwhile were acknowledged, and none of them is lost")


def killed(world, expected, rounds):
    """kill -9 of the ingest or of the broker, at random moments."""
    leat, done, attempts = world.on_broker(), 0, 0
    publisher = Publisher(world.on_broker())
    started = time.monotonic()
    print(f"  {'round':>5} {'killed':<8} {'after ms':>8} {'events/s':>9}")
    plan = []
    while done < rounds:
        attempts += 1
        require(attempts < 20 * rounds + 50, f"only {done} of {rounds} kills came in time")
        if not plan:  # few rounds, and both all the same
            plan = ["broker", "broker", "ingest", "ingest"]
            world.random.shuffle(plan)
        victim = plan[-1]
        delay_s = world.random.uniform(0.02, 1.2)
        ingest = subprocess.Popen(leat.command("ingest", "ethereum-etl", world.genesis, "--chain", CHAIN),
                                  stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        begun = time.monotonic()
        try:
            ingest.wait(delay_s)
        except subprocess.TimeoutExpired:
            pass
        running = ingest.poll() is None
        if victim == "broker":
            world.broker.call("kill")
            world.broker.call("start")
            try:
                _, errors = ingest.communicate(timeout=RECOVERY_S)
            except subprocess.TimeoutExpired:
                ingest.kill()
                _, errors = ingest.communicate()
                raise Failed(f"ingest did not go on within {RECOVERY_S} s of the broker's return: {errors.decode()[-3000:]}") from None
            if ingest.returncode != 0:
                # One that had only begun says so when the broker goes away; whoever reads that starts it again.
                require(f"leat: error: {world.broker.name}".encode() in errors, f"ingest ended with {ingest.returncode}: {errors.decode()[-1500:]}")
                deadline = time.monotonic() + RECOVERY_S
                while (again := leat.run("ingest", "ethereum-etl", world.genesis, "--chain", CHAIN)).code != 0:
                    # Streams may be back later than the broker that has them.
                    require(time.monotonic() < deadline and (mended(world, again.err) or RETURNING.search(again.err)), again)
        else:
            ingest.kill()
            ingest.communicate()
        if running:
            done += 1
            plan.pop()
            rate = 34_880 / (time.monotonic() - begun) if victim == "broker" else 0
            print(f"  {done:>5} {victim:<8} {delay_s * 1000:>8.0f} {rate:>9,.0f}", flush=True)
        if victim == "broker" or not running:
            equal(outcome(leat), expected, f"after {done} kills")
            leat = world.on_broker()
    leat.ingest(world.genesis)
    equal(outcome(leat), expected, f"after {done} kills")
    publisher.check()
    print(f"  {done} kills in {time.monotonic() - started:.0f} s, nothing lost and nothing twice")


def mended(world, errors):
    """RabbitMQ killed while it makes a stream may leave half a queue, which no client can do anything about: takes it away as
    docs/transports.md says."""
    half = re.search(r"declaring (\S+): 541 .*docs/transports\.md", errors)
    if world.broker.name != "rabbitmq" or not half:
        return False
    world.broker.rabbitmqctl("eval", f'rabbit_amqqueue:internal_delete(rabbit_misc:r(<<"/">>, queue, <<"{half[1]}">>), <<"leat">>).')
    print(f"  the broker was left with half a queue, {half[1]}: taken away", flush=True)
    return True


def half_a_queue(world):
    """What a RabbitMQ has that was killed while it made a stream: an error that says so, and what helps."""
    if world.broker.name != "rabbitmq":
        return
    leat = world.on_broker()
    world.broker.rabbitmqctl("eval", f'''
        Name = rabbit_misc:r(<<"/">>, queue, <<"{leat.prefix}.chain.blocks.0">>),
        Queue = amqqueue:new(Name, none, true, false, none, [{{<<"x-queue-type">>, longstr, <<"stream">>}}], <<"/">>, #{{}}, rabbit_stream_queue),
        mnesia:dirty_write(rabbit_durable_queue, Queue).''')
    result = leat.error("ingest", "ethereum-etl", world.genesis, "--chain", CHAIN, mentions=["chain.blocks.0: 541", "docs/transports.md"])
    require(mended(world, result.err), result)
    leat.ingest(world.genesis)


class PlainKafka:
    """kcat: a Kafka client that knows nothing of Leat."""

    def __init__(self, world):
        self.base = ["kcat", "-q", "-b", f"127.0.0.1:{world.broker.port}"]

    def read(self, leat, topic):
        """(headers, payload) of every message of partition 0."""
        out = subprocess.run([*self.base, "-C", "-e", "-p", "0", "-o", "beginning", "-t", leat.prefix + topic, "-J"],
                             stdout=subprocess.PIPE, check=True).stdout
        messages = [json.loads(line) for line in out.splitlines()]
        return [(dict(zip(*[iter(m.get("headers") or [])] * 2)), m["payload"]) for m in messages]

    def write(self, leat, topic, headers, payload):
        pairs = headers.items() if isinstance(headers, dict) else headers
        flags = [flag for name, value in pairs for flag in ("-H", f"{name}={value}")]
        with tempfile.NamedTemporaryFile() as file:
            file.write(payload)
            file.flush()
            subprocess.run([*self.base, "-P", "-p", "0", "-t", leat.prefix + topic, *flags, file.name], check=True)

    def names(self, attributes):
        return {("content-type" if name == "datacontenttype" else f"ce_{name}"): value for name, value in attributes.items()}


class PlainAmqp:
    """pika: an AMQP client that knows nothing of Leat."""

    def __init__(self, world):
        import pika
        self.pika = pika
        self.parameters = pika.ConnectionParameters("127.0.0.1", world.broker.port)

    def read(self, leat, topic):
        """(headers, payload) of every message of partition 0 but the mark at the beginning."""
        connection = self.pika.BlockingConnection(self.parameters)
        channel = connection.channel()
        channel.basic_qos(prefetch_count=100)
        messages = []
        for method, properties, body in channel.consume(f"{leat.prefix}.{topic}.0", inactivity_timeout=2,
                                                        arguments={"x-stream-offset": "first"}):
            if method is None:
                break
            channel.basic_ack(method.delivery_tag)
            if properties.type != "leat.mark":
                messages.append(({**properties.headers, "content-type": properties.content_type},
                                 body.decode("utf-8", "surrogateescape")))
        connection.close()
        return messages

    def write(self, leat, topic, headers, payload):
        connection = self.pika.BlockingConnection(self.parameters)
        channel = connection.channel()
        channel.confirm_delivery()
        headers = dict(headers)
        properties = self.pika.BasicProperties(delivery_mode=2, content_type=headers.pop("content-type", None),
                                               headers=headers)
        channel.basic_publish(leat.prefix, f"{topic}.0.foreign", payload, properties, mandatory=True)
        connection.close()

    def names(self, attributes):
        return {("content-type" if name == "datacontenttype" else f"cloudEvents_{name}"): value
                for name, value in attributes.items()}


def sdk_python():
    """The Python of an environment that has what tests/e2e/sdk/requirements.txt names; made once, below build/."""
    requirements = os.path.join(HERE, "sdk", "requirements.txt")
    with open(requirements, "rb") as file:
        name = "sdk-" + hashlib.sha256(file.read()).hexdigest()[:16]
    folder = os.path.join(ROOT, "build", name)
    python = os.path.join(folder, "bin", "python")
    os.makedirs(os.path.dirname(folder), exist_ok=True)
    with open(folder + ".lock", "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the tests of both brokers may come at a time
        if not os.path.exists(os.path.join(folder, "complete")):
            shutil.rmtree(folder, ignore_errors=True)
            for command in ([sys.executable, "-m", "venv", folder],
                            [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", requirements]):
                done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
                require(done.returncode == 0, f"`{' '.join(command)}` failed (is there a network?): {done.stdout[-1500:]}")
            with open(os.path.join(folder, "complete"), "w", encoding="utf-8"):
                pass
    return python


def sdk_client(world, leat, topic, verb, *arguments):
    """What the SDK's client prints, which has our .proto files and knows nothing else of us."""
    generated = os.path.join(world.folder, "generated")
    os.makedirs(generated, exist_ok=True)
    protos = [os.path.join(path, name) for path, _, names in os.walk(os.path.join(ROOT, "events", "proto"))
              for name in names if name.endswith(".proto")]
    subprocess.run(["protoc", "-I", os.path.join(ROOT, "events", "proto"), "--python_out", generated, *protos], check=True)

    name = (["--topic", topic, "--exchange", leat.prefix] if world.broker.name == "rabbitmq"
            else ["--topic", leat.prefix + topic])
    done = subprocess.run([sdk_python(), os.path.join(HERE, "sdk", "client.py"), verb, "--broker", world.broker.name,
                           "--port", str(world.broker.port), "--generated", generated, *name, *map(str, arguments)],
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=120, check=False)
    require(done.returncode == 0, f"the SDK's client: {done.stderr[-1500:]}")
    return [json.loads(line) for line in done.stdout.splitlines()]


def sdk(world, leat, topic):
    """The CloudEvents SDK for Python, on a plain client of the broker: reads what we publish with the .proto alone, and
    publishes what we take."""

    def client(verb, *arguments):
        return sdk_client(world, leat, topic, verb, *arguments)

    leat.ok("publish", topic, "--type", "chain.block_reverted.v1", "--key", "k", "--subject", "chain-x",
            "--data", json.dumps({"chain": "eip155:5", "number": "7"}))
    ours, = leat.lines("replay", "--topic", topic)
    read, = client("read")
    equal(read["data"], ours["data"], "data as the SDK's client has it")
    for name in ("id", "source", "type", "subject", "specversion", "partitionkey"):
        equal(read["attributes"].get(name), ours[name], f"{name} as the SDK has it")
    equal(read["attributes"]["datacontenttype"], "application/protobuf", "content type as the SDK has it")
    equal(read["attributes"]["time"][:19], ours["time"][:19], "time as the SDK has it")
    written, = client("write")
    events = leat.lines("replay", "--topic", topic)[1:]
    equal([event["id"] for event in events], written, "events of the SDK")
    for event in events:
        equal([event[name] for name in ("source", "type", "subject", "partitionkey", "tenant", "time", "data")],
              ["//sdk", "chain.block_reverted.v1", "chain-x", "k", "x", "2020-01-02T03:04:05.678Z", ours["data"]],
              f"event {event['id']}")


def same_value(theirs, ours):
    """Whether the SDK's JSON of a field, by the .proto alone, is what ours shows more readably: bytes as base64 there."""
    if theirs == ours or not isinstance(theirs, type(ours)):
        return theirs == ours
    if isinstance(ours, dict):
        return theirs.keys() == ours.keys() and all(same_value(theirs[name], ours[name]) for name in ours)
    if isinstance(ours, list):
        return len(theirs) == len(ours) and all(map(same_value, theirs, ours))
    if not isinstance(ours, str):
        return False
    try:
        octets = base64.b64decode(theirs, validate=True)
    except ValueError:
        return False
    return ours in ("0x" + octets.hex(), str(int.from_bytes(octets, "big")))


def decided(world, leat, topic):
    """What a decider published, as the SDK's client reads it."""
    ours = leat.lines("replay", "--topic", topic, "--limit", DECIDED_READ)
    theirs = [event for event in sdk_client(world, leat, topic, "read", "--count", DECIDED_READ + 1)
              if not event["attributes"]["type"].startswith("runtime.")]  # but the claim before them
    equal(len(theirs), len(ours), f"events of {topic} that the SDK reads")
    for number, (read, event) in enumerate(zip(theirs, ours)):
        attributes = read["attributes"]
        for name in ("specversion", "id", "source", "type", "subject", "partitionkey", "streamversion", "cause"):
            equal(attributes.get(name), event.get(name), f"{name} of event {number} of {topic} as the SDK has it")
        equal(attributes["position"], str(number), f"position of event {number} of {topic}")
        require(same_value(read["data"], event["data"]), f"data of event {number} of {topic}:", read["data"], event["data"])


def strangers(world, expected):
    """Clients that are not ours read our events and publish some that we take; what is no event goes to the dead letters with
    its bytes, and everything else goes on."""
    client = {"kafka": PlainKafka, "rabbitmq": PlainAmqp}[world.broker.name](world)
    leat = world.on_broker()
    leat.ok("publish", "notes", "--type", "chain.block_reverted.v1", "--key", "k", "--subject", "chain-x",
            "--data", json.dumps({"chain": "eip155:5", "number": "7"}))
    (headers, payload), = client.read(leat, "notes")
    names = client.names({"type": "chain.block_reverted.v1", "subject": "chain-x", "specversion": "1.0", "partitionkey": "k",
                          "datacontenttype": "application/protobuf"})
    for name, value in names.items():
        equal(headers.get(name), value, f"header {name} as another client sees it")
    proto = subprocess.run(["protoc", "-I", os.path.join(ROOT, "events", "proto"), "--decode", "leat.chain.v1.BlockReverted",
                            "chain/v1/chain.proto"], input=payload.encode("utf-8", "surrogateescape"), check=True,
                           stdout=subprocess.PIPE).stdout.decode()
    equal(proto.split(), ['chain:', '"eip155:5"', "number:", "7"], "the payload by the .proto alone")

    # The same message from another client, as bare Protobuf and as structured JSON.
    attributes = {"specversion": "1.0", "type": "chain.block_reverted.v1", "source": "//stranger", "id": "1",
                  "time": "2020-01-01T00:00:00Z", "datacontenttype": "application/protobuf"}
    client.write(leat, "notes", client.names(attributes), payload.encode())
    structured = {**attributes, "id": "2", "datacontenttype": "application/json", "data": {"chain": "eip155:5", "number": "7"}}
    client.write(leat, "notes", {"content-type": "application/cloudevents+json"}, json.dumps(structured).encode())
    timeless = {name: value for name, value in structured.items() if name != "time"}
    client.write(leat, "notes", {"content-type": "application/cloudevents+json"}, json.dumps({**timeless, "id": "3"}).encode())
    seen = leat.lines("replay", "--topic", "notes")
    equal([event["id"] for event in seen[1:]], ["1", "2", "3"], "events of another client")
    equal(leat.lines("replay", "--topic", "notes"), seen, "the same at every read")
    for event in seen:
        equal(event["data"], {"chain": "eip155:5", "number": "7"}, "their data")

    sdk(world, leat, "sdk")

    # Into the middle of a topic that a shard owns: no event, half an event, an unknown type, an event of nobody's.
    leat.ingest(world.genesis)
    decided(world, leat, "chain.blocks")
    decided(world, leat, "ledger.entries")
    letters = [({}, b"no event \xff\x00"),
               (client.names({"specversion": "0.3", "type": "x", "id": "1", "source": "y"}), b"old"),
               (client.names({**attributes, "time": "noon"}), b"untimely"),
               (client.names({**attributes, "type": "no.such_type.v1"}), b"unknown"),
               (client.names(attributes), payload.encode())]
    for headers, body in letters:
        client.write(leat, "ledger.entries", headers, body)
        client.write(leat, "chain.blocks", headers, body)
    leat.ingest(world.genesis)  # whoever owns the partitions comes past them
    equal(outcome(leat), expected, "the state after strangers wrote into our topics")
    for topic in ("chain.blocks", "ledger.entries"):
        dead = leat.lines("replay", "--topic", topic + ".dead")
        equal([base64.b64decode(event["data"]["data"]) for event in dead], [body for _, body in letters],
              f"original bytes in {topic}.dead")
        require(all(event["data"]["problem"] for event in dead), "each says why", dead)


def encoded(message, text):
    """Protobuf of its text format, by the .proto alone."""
    return subprocess.run(["protoc", "-I", os.path.join(ROOT, "events", "proto"), f"--encode={message}", "chain/v1/chain.proto"],
                          input=text.encode(), check=True, stdout=subprocess.PIPE).stdout


def facts_of_strangers(world):
    """Nobody of ours ingests: all facts are strangers', with much among them that is none. What is one is decided on, once, and
    every other message is one dead letter with its bytes."""
    client = {"kafka": PlainKafka, "rabbitmq": PlainAmqp}[world.broker.name](world)
    leat = world.on_broker()
    address = "0x" + "77" * 20

    def octets(value, count):
        return f"\\x{value:02x}" * count  # as the text format has them

    def headers(number, kind="block_observed", **more):
        return client.names({"specversion": "1.0", "type": f"chain.{kind}.v1", "source": "//stranger", "id": str(number),
                             "time": "2020-01-01T00:00:00Z", "datacontenttype": "application/protobuf", **more})

    def block(number, gwei, hash_bytes=32):
        return encoded("leat.chain.v1.BlockObserved",
                       f'chain: "eip155:99" part: 1 parts: 1 header {{ number: {number} hash: "{octets(number, hash_bytes)}" '
                       f'parent_hash: "{octets(number - 1, 32)}" timestamp_s: 1500000000 }} '
                       f'withdrawals {{ address: "{octets(0x77, 20)}" amount_gwei: {gwei} }}')

    letters = [(headers(10), b"\xff\xff\xff"),
               (headers(11), b"\x0a\x80\x80\x80\x32x"),  # a field that claims 100 MiB
               (headers(12, "no_such_type"), b"unheard of"),
               ({name: value for name, value in headers(1).items() if not name.endswith("id")}, block(1, 5)),
               ({name: value for name, value in headers(1).items() if not name.endswith("source")}, block(1, 6)),
               (headers(13), block(1, 7, hash_bytes=5)),
               (headers(14, "block_reverted"), encoded("leat.chain.v1.BlockReverted", 'chain: "eip155:99" number: 1'))]
    # Attributes that are there twice: AMQP's headers are a table, which has each name once, but several names are read.
    twice = {"kafka": ("ce_id", "ce_specversion"), "rabbitmq": ("cloudEvents:id", "ce-specversion")}[world.broker.name]
    letters.append((list(headers(15).items()) + [(twice[0], "16")], b"two ids"))
    letters.append((list(headers(17).items()) + [(twice[1], "1.0")], b"two versions"))
    if world.broker.name == "kafka":
        leat.settings += ["--set", "kafka.statistics.interval.ms=200"]
    with leat.serving("--role", "ledger,balances,gateway") as server:
        client.write(leat, "chain.blocks", headers(1), block(1, 3))
        for wrong, body in letters:
            client.write(leat, "chain.blocks", wrong, body)
        client.write(leat, "chain.blocks", headers(1), block(1, 3))  # a repetition
        client.write(leat, "chain.blocks", headers(2), block(2, 4))
        deadline = time.monotonic() + RECOVERY_S
        balance = None
        while balance != "0.000000007":  # of 3 and 4 gwei
            require(time.monotonic() < deadline, f"the balance is {balance}: {server.stderr()[-1500:]}")
            time.sleep(0.2)
            answer = leat.run("query", "balance", address, "--chain", "eip155:99", "--json")
            balance = json.loads(answer.out)["balance"] if answer.code == 0 else answer.err
        if world.broker.name == "kafka":
            names = set(re.findall(r'statistics: .*?"name": *"leat#([a-z]+)-[0-9]+"', server.stderr()))
            numbers = set(re.findall(r'statistics: .*?"name": *"leat#consumer-([0-9]+)"', server.stderr()))
            # Consumers: one that asks, two in groups, and one or more that read.
            require(names == {"producer", "consumer"} and len(numbers) >= 4, "whose statistics are logged:", names, numbers)
    dead = leat.lines("replay", "--topic", "chain.blocks.dead")
    equal([base64.b64decode(event["data"]["data"]) for event in dead], [body for _, body in letters], "dead letters")
    require(all(event["data"]["problem"] for event in dead), "each says why", dead)
    # Whoever would own the feed after that is told what stands in the way.
    leat.error("ingest", "ethereum-etl", world.genesis, "--chain", CHAIN,
               mentions=[r"leat: error: .*chain\.blocks/0@0 is a stranger's.*topics\.prefix"])  # in the error itself, not in the log


def scripts(world):
    """deploy/kafka and deploy/rabbitmq leave alone what they did not start, and name the log of what does not start."""
    name, port = world.broker.name, world.broker.port + 50
    folder = os.path.join(world.folder, "script")

    def call(verb, *more):
        return subprocess.run([os.path.join(ROOT, "deploy", name), verb, "--port", str(port), "--dir", folder, *more],
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)

    for taken in {"kafka": (port, port + 1), "rabbitmq": (port, port + 1, port + 2)}[name]:
        with socket.create_server(("127.0.0.1", taken)):
            done = call("start")
            require(done.returncode != 0 and f"port {taken} is taken" in done.stdout, f"port {taken} is taken:", done.stdout)
    # Another process has the pid by now.
    with subprocess.Popen(["sleep", "600"]) as other:
        for verb in ("stop", "kill", "wipe"):
            os.makedirs(folder, exist_ok=True)
            with open(os.path.join(folder, name + ".pid"), "w", encoding="utf-8") as file:
                file.write(f"{other.pid} 1\n")
            require(call("status").returncode == 3, "it does not run")
            require(call(verb).returncode == 0 and other.poll() is None, f"{verb} ends a process that it did not start")
        other.kill()
    properties = os.path.join(world.folder, "broken")
    with open(properties, "w", encoding="utf-8") as file:
        file.write({"kafka": "process.roles=nobody\n", "rabbitmq": "listeners.tcp.1 = nowhere\n"}[name])
    done = call("start", "--properties", properties)
    log = re.search(r"its log: ([^)]+)\)", done.stdout)
    require(done.returncode != 0 and log and os.path.getsize(log[1]) > 0, "a broker that does not start names its log:", done.stdout)
    require(call("wipe").returncode == 0 and not os.path.exists(folder), "wipe leaves nothing")


def listens(world):
    """The broker runs, says so, and listens on loopback alone."""
    done = world.broker.call("status")
    require(f"running on 127.0.0.1:{world.broker.port}" in done, done)
    ports = {f"{port:04X}" for port in range(world.broker.port, world.broker.port + 4)}
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with open(table, encoding="utf-8") as file:
            for line in list(file)[1:]:
                address, port = line.split()[1].split(":")
                if line.split()[3] != "0A" or port not in ports:
                    continue
                found.add(port)
                require(address in ("0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"),
                        f"port {int(port, 16)} is open to others: {address}")
    require(len(found) >= 3, f"ports that it listens on: {found}")


def configured(world):
    """Users and TLS from a file of settings, by which the binary reaches the broker; wrong ones are refused without a secret."""
    broker, name = world.broker, world.broker.name
    ca = os.path.join(broker.certificates, "ca.pem")
    right = {"kafka": {"kafka.bootstrap.servers": f"localhost:{broker.tls_port}", "kafka.security.protocol": "SASL_SSL",
                       "kafka.ssl.ca.location": ca, "kafka.sasl.mechanism": "PLAIN", "kafka.sasl.username": "somebody",
                       "kafka.sasl.password": "open", "topics.prefix": "secured."},
             "rabbitmq": {"rabbitmq.host": "localhost", "rabbitmq.port": broker.tls_port, "rabbitmq.tls": "true",
                          "rabbitmq.tls_ca_file": ca, "rabbitmq.tls_certificate_file": f"{broker.certificates}/client.pem",
                          "rabbitmq.tls_key_file": f"{broker.certificates}/client.key", "rabbitmq.username": "guest",
                          "rabbitmq.password": "guest", "rabbitmq.vhost": "/", "topics.prefix": "secured"}}[name]
    leat = Leat(world.arguments.leat, os.path.join(world.folder, "configured"))
    file_name = os.path.join(world.folder, "settings")

    def with_settings(settings, *arguments):
        with open(file_name, "w", encoding="utf-8") as file:
            file.write("# of a test\n\n" + "".join(f"{key}={value}\n" for key, value in settings.items()))
        return ("--transport", name, "--config", file_name, *arguments)

    note = ("publish", "notes", "--type", "chain.block_reverted.v1", "--data", json.dumps({"chain": "eip155:5", "number": "7"}))
    leat.ok(*with_settings(right, *note))
    equal(len(leat.lines(*with_settings(right, "replay", "--topic", "notes"))), 1, "events published by settings from a file")
    password = f"{name}.sasl.password" if name == "kafka" else "rabbitmq.password"
    result = leat.error(*with_settings({**right, password: "not-this-one"}, *note), mentions=[password])
    require("not-this-one" not in result.out + result.err, "the password is told:", result)
    authority = "kafka.ssl.ca.location" if name == "kafka" else "rabbitmq.tls_ca_file"
    leat.error(*with_settings({**right, authority: f"{broker.certificates}/other-ca.pem"}, *note), mentions=[authority])
    leat.error(*with_settings({**right, "nonsense": "1"}, *note), code=2, mentions=["settings:", "nonsense"])
    if name == "rabbitmq":
        swapped = {**right, "rabbitmq.tls_key_file": right["rabbitmq.tls_certificate_file"]}
        leat.error(*with_settings(swapped, *note), mentions=["rabbitmq.tls_key_file"])
        leat.error(*with_settings({**right, "rabbitmq.vhost": "nowhere"}, *note), mentions=["rabbitmq.vhost"])


def on_the_disk(world, leat, topic):
    """What Kafka's own tool says of the batches of a topic."""
    log = os.path.join(world.folder, "kafka", "data", f"{leat.prefix}{topic}-0", "0" * 20 + ".log")
    out = subprocess.run(["java", "-cp", kafka_jars(), "org.apache.kafka.tools.DumpLogSegments", "--files", log], stdout=subprocess.PIPE,
                         stderr=subprocess.PIPE, text=True, check=False)
    batches = re.findall(r"producerId: (-?\d+) .*compresscodec: (\w+)", out.stdout)
    require(batches, out.stdout[-1500:], out.stderr[-1500:])
    return {(int(producer) >= 0, codec) for producer, codec in batches}


def kafka_jars():
    """The class path of the Kafka that deploy/kafka starts, its tools among it."""
    with open(os.path.join(ROOT, "deploy", "brokers", "pom.xml"), encoding="utf-8") as file:
        pinned = re.search("<kafka.version>(.*)</kafka.version>", file.read())[1]
    folders = glob.glob(os.path.join(os.environ.get("LEAT_BROKERS", os.path.join(ROOT, ".brokers")),
                                     f"kafka-jars-{os.environ.get('LEAT_KAFKA_VERSION', pinned)}-" + "[0-9a-f]" * 8))
    require(folders, "deploy/kafka has fetched nothing")
    return os.path.join(max(folders, key=os.path.getmtime), "*")


def topic_settings(world):
    """Retention and replication from the settings, and topics that are there with others."""
    if world.broker.name != "kafka":
        return
    leat = world.on_broker()
    plain = leat.settings
    publish = ("publish", "kept", "--type", "chain.block_reverted.v1", "--data", json.dumps({"chain": "eip155:5", "number": "7"}))
    leat.settings = [*plain, "--set", "topics.retention_ms=2592000000", "--set", "topics.replication=1"]  # 30 days
    leat.ok(*publish)
    leat.ok(*publish)
    leat.settings = plain
    leat.error(*publish, mentions=["retention.ms=2592000000", "topics.retention_ms=2592000000"])
    leat.settings = [*plain, "--set", "topics.retention_ms=2592000000", "--set", "topics.replication=2"]
    leat.error(*publish, mentions=["topics.replication=1"])
    leat.settings = [*plain, "--set", "topics.retention_ms=-2"]
    leat.error(*publish, mentions=["topics.retention_ms"])
    # Every batch is of an idempotent producer, and compressed as it is set to be.
    leat = world.on_broker()
    leat.ok("publish", "packed", *publish[2:])
    equal(on_the_disk(world, leat, "packed"), {(True, "lz4")}, "batches (idempotent, codec)")
    leat.settings += ["--set", "kafka.compression.codec=zstd"]
    leat.ok("publish", "packed", *publish[2:])
    equal(on_the_disk(world, leat, "packed"), {(True, "lz4"), (True, "zstd")}, "batches (idempotent, codec)")
    equal(len(leat.lines("replay", "--topic", "packed")), 2, "events of both")


def refused(world):
    """A broker that is not there, and settings that are wrong."""
    leat = Leat(world.arguments.leat, os.path.join(world.folder, "refused"))
    broker = world.arguments.broker
    away = {"kafka": "kafka.bootstrap.servers=127.0.0.1:1", "rabbitmq": "rabbitmq.port=1"}[broker]
    leat.error("topics", mentions=["no data folder"])
    leat.error("--transport", broker, "--set", away, "topics", mentions=["no broker answers"])
    ingest = ("ingest", "ethereum-etl", world.genesis, "--chain", CHAIN)
    leat.error("--transport", broker, "--set", away, *ingest,
               mentions=["127.0.0.1:1", "no broker answers", f"deploy/{broker} start"])
    if broker == "kafka":
        leat.error("--transport", broker, "--set", "kafka.no.such.property=1", *ingest, mentions=["kafka.no.such.property"])
    else:
        leat.error("--transport", broker, "--set", "rabbitmq.port=x", *ingest, mentions=["rabbitmq.port"])
    leat.error("--transport", broker, "--set", "nonsense=1", *ingest, code=2, mentions=["nonsense"])
    leat.error("--transport", broker, "--set", "kafka.sasl.password=x", *ingest, code=2, mentions=["config"])
    leat.error("--transport", "pigeons", *ingest, mentions=["pigeons"])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--broker", choices=["kafka", "rabbitmq"], required=True)
    parser.add_argument("--leat", required=True)
    parser.add_argument("--sample", required=True)
    parser.add_argument("--port", type=int)
    parser.add_argument("--rounds", type=int, default=100 if os.environ.get("LEAT_FULL") == "1" else 5)
    parser.add_argument("--seed", type=int, default=int(os.environ.get("LEAT_SEED", "1")))
    arguments = parser.parse_args()
    arguments.port = arguments.port or {"kafka": 19392, "rabbitmq": 19872}[arguments.broker]
    print(f"{arguments.broker}: {arguments.rounds} kills, seed {arguments.seed} (LEAT_SEED)", flush=True)
    folder = tempfile.mkdtemp(prefix="leat-brokers-")
    world = World(arguments, folder)
    try:
        scripts(world)
        refused(world)
        expected = embedded(world)
        world.broker.call("start")
        listens(world)
        configured(world)
        undisturbed(world, expected)
        print("  balances and log as embedded, also after all shards were rebuilt from their topics", flush=True)
        half_a_queue(world)
        topic_settings(world)
        strangers(world, expected)
        facts_of_strangers(world)
        print("  clients that are not ours read and write; what is no event is kept as a dead letter", flush=True)
        killed(world, expected, arguments.rounds)
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
