"""A client that is left open: a request every second for an hour, through a proxy port and five relays.

Every answer must be right to the byte, and no process may hold more in the end than at the start. A line a minute
says how it goes. Exit code 0 when all is well, else 1 and a sentence for each thing that is not.
"""

import argparse
import hashlib
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from time import monotonic, sleep

from tests.soak.watch import Looks, Watched, grown, look
from tests.system.network import Network, ProxyProcess
from tests.system.targets import WebTarget, digest_of

SIZES = (0, 1, 1_000, 20_000, 200_000, 2_000_000)  # bytes of the answers, in turns
RELAYS = 5
MINUTE = 60.0
WARM = 40  # requests on as many circuits before the first look: by then there is a link between any two relays
NEW_NAME = 60  # requests with one user name, which means one circuit: so circuits are made and left all the time


def main(arguments: Sequence[str]) -> int:
    """Runs it, and returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0, help="how long [60]")
    parser.add_argument("--every", type=float, default=1.0, metavar="SECONDS", help="between two requests [1]")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder, WebTarget() as web, Network(Path(folder), RELAYS) as network:
        proxy = network.proxy()
        problems = soak(network, proxy, web, options.minutes, options.every)
    for problem in problems:
        print(problem)
    print("failed" if problems else "flat: threads, descriptors and memory of all processes")
    return bool(problems)


def soak(network: Network, proxy: ProxyProcess, web: WebTarget, minutes: float, every: float) -> list[str]:
    """Requests until the time is over or one is wrong; a sentence for each problem."""
    processes: list[Watched] = [proxy, network.gateway, *network.relays]
    looks: list[Looks] = []
    for number in range(WARM):
        problem = request(proxy, web, number, f"warm{number}")
        if problem:
            return [f"request {number} before the first look: {problem}"]
    start, number = monotonic(), 0
    while monotonic() - start < minutes * MINUTE:
        problem = request(proxy, web, number, f"user{number // NEW_NAME}")
        if problem:
            return [f"request {number}: {problem}"]
        number += 1
        if monotonic() - start >= (len(looks) + 1) * MINUTE:
            looks.append(look(processes))
            print(f"{len(looks):3} min, {number:,} requests: {_line(looks[-1])}", flush=True)
        sleep(max(0.0, start + number * every - monotonic()))
    if len(looks) < 3:
        return ["too short to tell: three minutes at least"]
    return grown(looks)


def request(proxy: ProxyProcess, web: WebTarget, number: int, user: str) -> str:
    """One request by curl, on the circuit of that user; a sentence when its answer is not right."""
    size = SIZES[number % len(SIZES)]
    done = proxy.curl(f"http://localhost:{web.port}/bytes/{size}", "--fail", "--proxy-user", f"{user}:x")
    if done.returncode:
        return f"curl failed with {done.returncode}: {done.stderr.decode(errors='replace').strip()}"
    if hashlib.sha256(done.stdout).hexdigest() != digest_of(size):
        return f"{len(done.stdout)} bytes came instead of {size}, or others"
    return ""


def _line(looks: Looks) -> str:
    return "; ".join(f"{name} {each}" for name, each in looks.items())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
