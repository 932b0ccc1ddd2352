#!/usr/bin/env python3
"""deploy/run as the README has a newcomer run it: summary, proof, server; and again, with nothing to do.

usage: deploy_run.py

On every transport, with data folders and brokers of its own. It builds the release preset where that is not done.
"""

import os
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request

from harness import LISTENING, OK, Failed, equal, require

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
SCRIPT = os.path.join(ROOT, "deploy", "run")
RUN_S = 900
# Facts of the chain that the sample has.
RICHEST = "0x5abfec25f74cd88437631a7731906932776356f9"
PROOFS = 4
BROKERS = {"kafka": "19512", "rabbitmq": "19572"}  # and their ports


def run(*arguments, code=OK):
    done = subprocess.run([SCRIPT, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False,
                          stdin=subprocess.DEVNULL, timeout=RUN_S)
    require(done.returncode == code, f"deploy/run {' '.join(arguments)} ended with {done.returncode}: {done.stdout[-2000:]} "
            f"{done.stderr[-2000:]}")
    return done


def check_summary(text):
    equal(len(re.findall(r"^  holds ", text, re.MULTILINE)), PROOFS, "proofs that hold")
    require("FAILED" not in text, text)
    require(RICHEST in text, "the richest account is not named:", text)


def events(text):
    return re.findall(r"^  events +([\d,]+)$", text, re.MULTILINE)


def serve(*options):
    """The server that it ends in; what it says to try is tried."""
    process = subprocess.Popen([SCRIPT, *options, "--port", "0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                               stdin=subprocess.DEVNULL)
    try:
        output = b""
        deadline = time.monotonic() + RUN_S
        while not (found := LISTENING.search(output)):
            require(time.monotonic() < deadline, "it did not serve:", output[-2000:])
            if select.select([process.stdout], [], [], 0.2)[0]:
                piece = os.read(process.stdout.fileno(), 65536)
                require(piece, "it ended:", output[-2000:])
                output += piece
        text = output.decode()
        check_summary(text)
        tries = re.findall(r"curl 'http://127\.0\.0\.1:PORT(/[^']*)'", text)
        equal(len(tries), 5, "things to try")
        for target in tries:
            with urllib.request.urlopen(f"http://127.0.0.1:{int(found.group(1))}{target}", timeout=30) as answer:
                require(answer.status == 200 and answer.read(), target)
        process.send_signal(signal.SIGTERM)
        equal(process.wait(60), OK, "exit code of the server")
        return text
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def whole_run(*options):
    first = run(*options, "--no-serve").stdout
    check_summary(first)
    again = serve(*options)
    if "--transport" not in options:  # every owner of a broker's partition adds a claim
        equal(events(again), events(first), "events after it was run again")


def main():
    folder = tempfile.mkdtemp(prefix="leat-deploy-run-")
    data = os.path.join(folder, "data")
    try:
        whole_run("--data", data)
        for transport, port in BROKERS.items():
            try:
                whole_run("--data", f"{data}-{transport}", "--transport", transport, "--broker-port", port)
            finally:
                subprocess.run([os.path.join(ROOT, "deploy", transport), "wipe", "--port", port], check=True,
                               stdout=subprocess.DEVNULL)
        for wrong in (["--transport", "carrier-pigeon"], ["--port", "65536"], ["--data"], ["--nonsense"]):
            require("usage: deploy/run" in run(*wrong, code=2).stderr, wrong)
    except (Failed, OSError, subprocess.TimeoutExpired) as error:
        print(f"FAILED: {error}")
        return 1
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print("deploy/run: summary and proof, server, and again with nothing to do")
    return 0


if __name__ == "__main__":
    sys.exit(main())
