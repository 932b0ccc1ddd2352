"""What the end-to-end tests drive the binary with: commands, a server, raw HTTP, and digests of a data folder.

Nothing here knows the product but by its command line, its HTTP and its exit codes."""

import contextlib
import hashlib
import http.client
import json
import os
import re
import select
import signal
import socket
import subprocess
import time

CHAIN = "eip155:1"
OK, OPERATING_ERROR, USAGE_ERROR = 0, 1, 2
COMMAND_TIMEOUT_S = 300
START_TIMEOUT_S = 60
STOP_TIMEOUT_S = 60
HTTP_TIMEOUT_S = 30
OUTPUT_SHOWN_MAX = 2000

LISTENING = re.compile(rb"listening on http://127\.0\.0\.1:(\d+)")
# `leat: error: MESSAGE (REMEDY)`: every error names what to do about it.
ERROR_LINE = re.compile(r"^leat: error: .+ \(.+\)$", re.MULTILINE)
SANITIZER = re.compile(r"AddressSanitizer|ThreadSanitizer|LeakSanitizer|runtime error:|terminate called|Assertion")


class Failed(Exception):
    """A check did not hold."""


class Skipped(Exception):
    """A check cannot be made on this machine; the reason is printed."""


def require(condition, *what):
    if not condition:
        raise Failed(" ".join(str(part) for part in what))


def equal(actual, expected, what):
    require(actual == expected, f"{what}: expected {expected!r}, got {actual!r}")


def shown(text):
    return text if len(text) <= OUTPUT_SHOWN_MAX else text[:OUTPUT_SHOWN_MAX] + "…"


class Result:
    """A command that has ended."""

    def __init__(self, command, code, out, err):
        self.command, self.code, self.out, self.err = command, code, out, err

    def __str__(self):
        return f"`{self.command}` ended with {self.code}\nstdout: {shown(self.out)}\nstderr: {shown(self.err)}"


class Leat:
    """The binary on one data folder."""

    def __init__(self, binary, data):
        self.binary = binary
        self.data = data

    def command(self, *arguments):
        return [self.binary, "--data", self.data, *map(str, arguments)]

    def run(self, *arguments, stdin=None, timeout_s=COMMAND_TIMEOUT_S, stdout=subprocess.PIPE):
        """Runs to the end and answers the Result, whatever it is; a hang or a sanitizer's report fails the check."""
        command = self.command(*arguments)
        try:
            done = subprocess.run(command, input=None if stdin is None else stdin.encode("utf-8"), stdout=stdout,
                                  stderr=subprocess.PIPE, timeout=timeout_s, check=False,
                                  **({"stdin": subprocess.DEVNULL} if stdin is None else {}))
        except subprocess.TimeoutExpired:
            raise Failed(f"`{' '.join(command)}` did not end within {timeout_s} s") from None
        result = Result(" ".join(command), done.returncode, (done.stdout or b"").decode("utf-8", "replace"),
                        done.stderr.decode("utf-8", "replace"))
        require(not SANITIZER.search(result.err), "the binary is broken:", result)
        return result

    def ok(self, *arguments, **options):
        result = self.run(*arguments, **options)
        require(result.code == OK, result)
        return result.out

    def json(self, *arguments, **options):
        out = self.ok(*arguments, "--json", **options)
        try:
            return json.loads(out)
        except ValueError as error:
            raise Failed(f"`{' '.join(map(str, arguments))} --json` printed no JSON ({error}): {shown(out)}") from None

    def error(self, *arguments, code=OPERATING_ERROR, mentions=(), **options):
        """Runs what must fail: with this exit code, and one clear error that mentions each of these (patterns)."""
        result = self.run(*arguments, **options)
        require(result.code == code, f"expected exit code {code}:", result)
        if code == OPERATING_ERROR:
            require(ERROR_LINE.search(result.err), "no `leat: error: MESSAGE (REMEDY)`:", result)
        for pattern in mentions:
            require(re.search(pattern, result.err, re.IGNORECASE), f"the error does not mention {pattern!r}:", result)
        return result

    def ingest(self, *paths, excerpt=False):
        return self.ok("ingest", "ethereum-etl", *paths, "--chain", CHAIN, *(["--excerpt"] if excerpt else []))

    def lines(self, *arguments):
        """The JSON lines that a command prints."""
        return [json.loads(line) for line in self.ok(*arguments).splitlines()]

    def state_hash(self, *arguments):
        """SHA-256 of the whole state as CSV."""
        out = self.ok("query", "balances", *arguments, "--format", "csv")
        return hashlib.sha256(out.encode("utf-8")).hexdigest()

    def log_digest(self, *arguments):
        """(events, SHA-256) over (type, subject, data) of the whole log, in its order; arguments are those of replay."""
        digest = hashlib.sha256()
        count = 0
        with subprocess.Popen(self.command("replay", *arguments), stdout=subprocess.PIPE, stdin=subprocess.DEVNULL) as process:
            for line in process.stdout:
                event = json.loads(line)
                payload = event.get("data", event.get("data_base64"))
                row = [event["type"], event.get("subject"), payload]
                digest.update(json.dumps(row, sort_keys=True, separators=(",", ":")).encode("utf-8") + b"\n")
                count += 1
        equal(process.returncode, OK, "exit code of replay")
        return count, digest.hexdigest()

    @contextlib.contextmanager
    def serving(self, *arguments):
        """A server on a free port, for the length of a with block; it has to end well when asked to."""
        server = Server(self, arguments)
        try:
            yield server
            server.stop()
        finally:
            server.kill()


class Server:
    """`leat serve` on 127.0.0.1. Its output goes on being read only up to the line that names the port: it says little
    more, and a pipe holds that."""

    def __init__(self, leat, arguments=()):
        self.leat = leat
        self.errors = open(os.path.join(os.path.dirname(leat.data), f"serve.{time.monotonic_ns()}.stderr"), "w+b")
        self.process = subprocess.Popen(leat.command("serve", "--port", 0, *arguments), stdout=subprocess.PIPE,
                                        stderr=self.errors, stdin=subprocess.DEVNULL)
        try:
            self.port = self.wait_for_port()
        except BaseException:
            self.kill()
            raise

    def wait_for_port(self):
        output = b""
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            ready, _, _ = select.select([self.process.stdout], [], [], 0.2)
            if ready:
                piece = os.read(self.process.stdout.fileno(), 65536)
                output += piece
                match = LISTENING.search(output)
                if match and output.find(b"\n", match.end()) >= 0:
                    return int(match.group(1))
                if not piece:
                    break
        raise Failed(f"serve did not say where it listens: {shown(output.decode('utf-8', 'replace'))} "
                     f"{shown(self.stderr())}")

    def stderr(self):
        self.errors.seek(0)
        return self.errors.read().decode("utf-8", "replace")

    def stop(self):
        """Asks it to end, as a service manager does; it has to, with 0, and without a sanitizer's report."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            raise Failed(f"serve did not end within {STOP_TIMEOUT_S} s of SIGTERM") from None
        require(code == OK, f"serve ended with {code}: {shown(self.stderr())}")
        require(not SANITIZER.search(self.stderr()), "serve is broken:", shown(self.stderr()))

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.process.stdout.close()
        if not self.errors.closed:
            self.stderr()
            self.errors.close()

    def request(self, method, target, body=None, headers=None):
        """One request on a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=HTTP_TIMEOUT_S)
        try:
            connection.request(method, target, body=body, headers=headers or {})
            response = connection.getresponse()
            return Answer(f"{method} {target}", response.status, dict(response.getheaders()), response.read())
        except (OSError, http.client.HTTPException) as error:
            raise Failed(f"{method} {target}: {error!r}") from None
        finally:
            connection.close()

    def get(self, target, status=200):
        answer = self.request("GET", target)
        require(answer.status == status, f"expected {status}:", answer)
        return answer

    def json(self, target):
        answer = self.get(target)
        require(answer.media_type() in ("application/json", "application/cloudevents-batch+json"), "not JSON:", answer)
        return answer.json()

    def problem(self, method, target, statuses, body=None, headers=None, mentions=()):
        """A request that must be refused with one of these statuses and a problem document."""
        answer = self.request(method, target, body, headers)
        answer.require_problem(statuses, mentions)
        return answer

    def connect(self):
        return socket.create_connection(("127.0.0.1", self.port), timeout=HTTP_TIMEOUT_S)

    def raw(self, octets, half_close=False):
        """Sends these bytes and reads until the server closes; answers what came."""
        with self.connect() as connection:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                connection.sendall(octets)
                if half_close:
                    connection.shutdown(socket.SHUT_WR)
            return read_all(connection)


def read_all(connection, timeout_s=HTTP_TIMEOUT_S):
    """What comes until the other side closes or resets."""
    connection.settimeout(timeout_s)
    received = b""
    try:
        while True:
            piece = connection.recv(65536)
            if not piece:
                return received
            received += piece
    except ConnectionResetError:
        return received
    except (socket.timeout, TimeoutError):
        raise Failed(f"the server kept the connection open for {timeout_s} s; so far: {received[:300]!r}") from None


class Answer:
    """An HTTP response."""

    def __init__(self, request, status, headers, body):
        self.request, self.status, self.body = request, status, body
        self.headers = {name.lower(): value for name, value in headers.items()}

    def media_type(self):
        return self.headers.get("content-type", "").split(";")[0].strip()

    def text(self):
        return self.body.decode("utf-8", "replace")

    def json(self):
        try:
            return json.loads(self.body)
        except ValueError as error:
            raise Failed(f"no JSON ({error}): {self}") from None

    def require_problem(self, statuses, mentions=()):
        """RFC 9457."""
        require(self.status in statuses, f"expected one of {sorted(statuses)}:", self)
        equal(self.media_type(), "application/problem+json", f"content type of {self.request}")
        problem = self.json()
        equal(problem.get("status"), self.status, f"status in the problem document of {self.request}")
        for member in ("title", "detail"):
            require(isinstance(problem.get(member), str) and problem[member], f"no {member}:", self)
        require(isinstance(problem.get("type", "about:blank"), str), "type is no string:", self)
        for pattern in mentions:
            require(re.search(pattern, self.text(), re.IGNORECASE), f"does not mention {pattern!r}:", self)

    def __str__(self):
        return f"{self.request} -> {self.status} {self.headers} {shown(self.text())}"


def parse_raw(octets, request="raw request"):
    """The first response in these bytes, where its body is all the rest."""
    head, separator, body = octets.partition(b"\r\n\r\n")
    require(separator, f"{request}: no complete response head in {octets[:300]!r}")
    lines = head.decode("latin-1").split("\r\n")
    match = re.match(r"HTTP/1\.[01] (\d{3})", lines[0])
    require(match, f"{request}: no status line: {lines[0]!r}")
    headers = dict(line.split(":", 1) for line in lines[1:])
    return Answer(request, int(match.group(1)), {name: value.strip() for name, value in headers.items()}, body)
