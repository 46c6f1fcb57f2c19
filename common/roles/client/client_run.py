"""A client as its configuration says, for the programs that use one."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from common.ops.config import ClientConfig
from common.roles.client.client import Client
from common.roles.client.control import control
from common.roles.client.pool import PathWishes
from common.roles.client.progress import StartProgress


@contextmanager
def running_client(config: ClientConfig, program: str, own: bytes | None = None) -> Iterator[Client]:
    """A client as configured, started, with its progress on standard error."""
    with StartProgress(sys.stderr) as progress:
        client = make_client(config, progress, progress.warn, own)
        with control(client, config.state, program), client:  # first: `status` tells how far it is
            yield client


def make_client(
    config: ClientConfig,
    progress: Callable[[int, str], None],
    warn: Callable[[str], None],
    own: bytes | None = None,
) -> Client:
    """A client as configured, inert; no circuit passes through the relay `own`."""
    return Client(
        config.gateways,
        config.network,
        cache=config.state / "directory.json",
        guards=config.state / "guards.json",
        wishes=path_wishes(config, own),
        progress=progress,
        warn=warn,
    )


def path_wishes(config: ClientConfig, own: bytes | None) -> PathWishes:
    """What the configuration says of paths; none passes through the relay `own`."""
    return PathWishes(*config.hops, config.suite, config.exclude, config.exit, own)
