"""A client as its configuration says, for the programs that use one."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console

from common.ops.config import ClientConfig
from common.ops.login_words import LoginCommand
from common.roles.answers import control
from common.roles.client import Client
from common.roles.login_screen import LoginScreen, direct, editing, through
from common.roles.pool import PathWishes
from common.roles.progress import StartProgress


def run_login(config: ClientConfig, command: LoginCommand, console: Console) -> int:
    """What auth_client.py does: a login, through the network or without it; 0 when it was done."""
    errors, ask = Console(stderr=True), editing()
    if command.direct or config.login is None:
        LoginScreen(direct, config.login, config.state, console, errors).run(command, ask)
        return 0
    with running_client(config, "server") as client:
        LoginScreen(through(client), config.login, config.state, console, errors).run(command, ask)
    return 0


@contextmanager
def running_client(config: ClientConfig, program: str, own: bytes | None = None) -> Iterator[Client]:
    """A client as configured, started, with its progress on standard error."""
    with StartProgress(Console(stderr=True)) as progress, make_client(config, progress, own) as client:
        with control(client, config.state, program):
            yield client


def make_client(config: ClientConfig, progress: StartProgress, own: bytes | None = None) -> Client:
    """A client as configured, inert; no circuit passes through the relay `own`."""
    return Client(
        config.gateways,
        config.network,
        cache=config.state / "directory.json",
        guards=config.state / "guards.json",
        wishes=PathWishes(*config.hops, config.suite, config.exclude, config.exit, own),
        progress=progress,
        warn=progress.warn,
    )
