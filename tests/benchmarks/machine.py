"""What a reader must know of the machine to make sense of the numbers: nothing that tells which machine it is."""

import os
import platform
import ssl
from pathlib import Path

import cryptography
from cryptography.hazmat.backends.openssl import backend

from tests.benchmarks.processes import Processes
from tests.benchmarks.tor import installed


def describe(processes: Processes, *, with_tor: bool) -> dict[str, str]:
    """Texts by heading, in the order in which they are shown."""
    facts = {
        "processor": f"{len(os.sched_getaffinity(0))} cores, {_processor()}",
        "system": f"{platform.system()} {platform.release()}",
        "Python": platform.python_version(),
        "OpenSSL": f"{ssl.OPENSSL_VERSION}; in cryptography {cryptography.__version__}: "
        f"{backend.openssl_version_text()}",
    }
    if with_tor and installed():
        child = processes.start(["tor", "--version"], pipe=True)
        output, _ = child.communicate(timeout=10)
        facts["C tor"] = output.decode().splitlines()[0].removeprefix("Tor version ").rstrip(".")
    return facts


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
