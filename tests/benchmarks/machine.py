"""What a reader must know of the machine to make sense of the numbers: nothing that tells which machine it is."""

import os
import platform
import ssl
import sysconfig
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cryptography
from cryptography.hazmat.backends.openssl import backend

from tests.benchmarks.processes import Processes
from tests.benchmarks.tor import installed


def describe(processes: Processes, *, with_tor: bool) -> dict[str, str]:
    """Texts by heading, in the order in which they are shown."""
    facts = {
        "processor": f"{len(os.sched_getaffinity(0))} cores, {_processor()}",
        "system": f"{platform.system()} {platform.release()}",
        "Python": f"{platform.python_version()}, {python_build(sysconfig.get_config_vars(), _is_shared())}",
        "OpenSSL": f"{ssl.OPENSSL_VERSION}; in cryptography {cryptography.__version__}: "
        f"{backend.openssl_version_text()}",
    }
    if with_tor and installed():
        child = processes.start(["tor", "--version"], pipe=True)
        output, _ = child.communicate(timeout=10)
        facts["C tor"] = output.decode().splitlines()[0].removeprefix("Tor version ").rstrip(".")
    return facts


def python_build(config: Mapping[str, Any], shared: bool) -> str:
    """How an interpreter was built, from what its `sysconfig` says and whether it runs from a shared library.

    Debian's and Ubuntu's programs are built with profiles, and linked with no such library; but what they record is of
    the library, with all traces of optimisation taken out.
    """
    flags = " ".join(str(config.get(name) or "") for name in ("CONFIG_ARGS", "PY_CFLAGS", "PY_CFLAGS_NODIST"))
    if "--enable-optimizations" in flags or "-fprofile-use" in flags:
        return "built with profile-guided optimisation"
    if "--enable-shared" in flags and not shared:
        return "a distribution's build that does not record how it was optimised (Debian's is, by profiles)"
    return "built without profile-guided optimisation"


def _is_shared() -> bool:
    return "/libpython" in Path("/proc/self/maps").read_text()


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
