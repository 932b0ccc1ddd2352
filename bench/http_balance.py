#!/usr/bin/env python3
"""Balance queries over HTTP beside nginx with a static body of the same size (from its memory), in the same run.

usage: http_balance.py --leat BIN [--sample deploy/sample] [--seconds 5] [--rounds 3] [--connections 64]

Both servers have one worker; wrk has one thread and keeps its connections. The two take turns, round by round, so that both
see the same machine. Per server: requests/s, CPU time per request (of the server's process, from /proc), and the ratio of
the medians. wrk takes a core of its own, so the CPU time per request says more than the rate where there are two cores.
"""

import argparse
import json
import os
import random
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request

TICKS = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid):
    """User and system time of a process, its threads included."""
    with open(f"/proc/{pid}/stat", encoding="ascii") as file:
        fields = file.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def wrk(url, seconds, connections, script, pid):
    before = cpu_seconds(pid)
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", "-s", script, url]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    requests = int(re.search(r"(\d+) requests in", out).group(1))
    if "Non-2xx" in out or "Socket errors" in out:
        sys.exit(f"wrk saw errors:\n{out}")
    rate = float(re.search(r"Requests/sec:\s+([\d.]+)", out).group(1))
    p99 = re.search(r"99%\s+(\S+)", out).group(1)
    return {"rate": rate, "cpu_us": (cpu_seconds(pid) - before) * 1e6 / requests, "p99": p99}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--leat", required=True)
    parser.add_argument("--sample", default="deploy/sample")
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--connections", type=int, default=64)
    arguments = parser.parse_args()
    for tool in ("wrk", "nginx"):
        if shutil.which(tool) is None:
            sys.exit(f"{tool} is not installed: see deploy/packages.txt")

    work = tempfile.mkdtemp(prefix="leat-bench-http-")
    data = os.path.join(work, "data")
    servers = []
    try:
        subprocess.run([arguments.leat, "--data", data, "ingest", "ethereum-etl",
                        os.path.join(arguments.sample, "mainnet_genesis"), "--chain", "eip155:1"], check=True,
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        rows = subprocess.run([arguments.leat, "--data", data, "query", "balances"], check=True, capture_output=True,
                              text=True).stdout.splitlines()[1:]
        addresses = [row.split(",")[0] for row in rows]
        random.Random(1).shuffle(addresses)
        server = subprocess.Popen([arguments.leat, "--data", data, "serve", "--port", "0"], stdout=subprocess.PIPE,
                                  stderr=subprocess.DEVNULL, text=True)
        servers.append(server)
        leat_url = server.stdout.readline().split()[-1]

        bodies = []
        for address in addresses[:200]:
            with urllib.request.urlopen(f"{leat_url}/api/balance/{address}") as reply:
                bodies.append(reply.read())
        size = round(statistics.mean(len(body) for body in bodies))
        json.loads(bodies[0])

        body = bodies[0].decode()[:size].ljust(size)
        os.chmod(work, 0o755)
        config = os.path.join(work, "nginx.conf")
        with open(config, "w", encoding="ascii") as file:
            file.write(f"""
worker_processes 1; daemon off; pid {work}/nginx.pid; error_log stderr crit;
user {'root' if os.geteuid() == 0 else os.environ.get('USER', 'nobody')};
events {{ worker_connections 1024; }}
http {{
  access_log off; tcp_nodelay on; keepalive_requests 100000000; default_type application/json;
  server {{ listen 127.0.0.1:18999; location / {{ return 200 '{body}'; }} }}
}}
""")
        nginx = subprocess.Popen(["nginx", "-c", config, "-p", work], stderr=subprocess.DEVNULL)
        servers.append(nginx)
        nginx_url = "http://127.0.0.1:18999"
        for _ in range(100):
            try:
                with urllib.request.urlopen(f"{nginx_url}/balance.json") as reply:
                    reply.read()
                break
            except OSError:
                time.sleep(0.05)
        workers = subprocess.run(["pgrep", "-P", str(nginx.pid)], check=True, capture_output=True, text=True).stdout
        nginx_worker = int(workers.split()[0])

        lua = os.path.join(work, "addresses.lua")
        with open(lua, "w", encoding="ascii") as file:
            file.write("local a = {" + ",".join(f'"/api/balance/{address}"' for address in addresses) + "}\n"
                       "local i = 0\nrequest = function()\n  i = i % #a + 1\n  return wrk.format(nil, a[i])\nend\n")
        # The same work for wrk: it formats a path for each request.
        static = os.path.join(work, "static.lua")
        with open(static, "w", encoding="ascii") as file:
            file.write("local a = {}\nfor i = 1, " + str(len(addresses)) + " do a[i] = '/balance.json' end\n"
                       "local i = 0\nrequest = function()\n  i = i % #a + 1\n  return wrk.format(nil, a[i])\nend\n")

        results = {"leat": [], "nginx": []}
        for number in range(arguments.rounds):
            for name, url, script, pid in (("nginx", nginx_url, static, nginx_worker),
                                           ("leat", leat_url, lua, server.pid)):
                result = wrk(url, arguments.seconds, arguments.connections, script, pid)
                results[name].append(result)
                print(f"round {number + 1} {name:>5}: {result['rate']:9.0f} requests/s, "
                      f"{result['cpu_us']:5.2f} µs CPU each, p99 {result['p99']}", flush=True)
        median = {name: {key: statistics.median(result[key] for result in rounds) for key in ("rate", "cpu_us")}
                  for name, rounds in results.items()}
        print(f"\nGET /api/balance/{{address}} over {len(addresses)} accounts, body of {size} bytes, "
              f"{arguments.connections} connections, one worker each, medians of {arguments.rounds}:")
        for name, values in median.items():
            print(f"  {name:>5}: {values['rate']:9.0f} requests/s, {values['cpu_us']:5.2f} µs CPU per request")
        print(f"  ratio: {median['leat']['rate'] / median['nginx']['rate']:.2f} of nginx's rate (target 0.70), "
              f"{median['leat']['cpu_us'] / median['nginx']['cpu_us']:.2f} times its CPU (target at most 2.00)")
    finally:
        for process in servers:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=30)
        shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    main()
