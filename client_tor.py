#!/usr/bin/env python3
"""The client: the prompt, `web URL` or `socks`; `client_tor.py --help` lists all."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console

from common.ops import lifecycle, logs
from common.ops.config import ClientConfig, load_client
from common.ops.files import private_folder
from common.roles.client import Client
from common.roles.pool import PathWishes
from common.roles.progress import StartProgress
from common.roles.prompt import Prompt, show_page
from common.roles.proxy import Proxy
from common.roles.web import complete_url, fetch


def run(argv: Sequence[str]) -> int:
    """Starts a client as configured and does what was asked."""
    config, command = load_client(argv)
    logs.set_up("client", config.log_level)
    lifecycle.raise_file_limit()
    private_folder(config.state)
    console = Console()
    if command.name == "socks":
        return serve_proxy(config, console)
    if command.name == "web":
        url = complete_url(command.argument)
        with running_client(config) as client:
            show_page(console, fetch(client, url), most_lines=None)
        return 0
    with running_client(config) as client:
        Prompt(client, console).run()
    return 0


@contextmanager
def running_client(config: ClientConfig) -> Iterator[Client]:
    """A client as configured, started, with its progress on standard error."""
    with StartProgress(Console(stderr=True)) as progress, make_client(config, progress) as client:
        yield client


def make_client(config: ClientConfig, progress: StartProgress) -> Client:
    """A client as configured, inert."""
    return Client(
        config.gateways,
        config.network,
        cache=config.state / "directory.json",
        wishes=PathWishes(*config.hops, config.suite),
        progress=progress,
        warn=progress.warn,
    )


def serve_proxy(config: ClientConfig, console: Console) -> int:
    """The proxy port, until a signal; a port that is taken is told before anything is started."""
    with StartProgress(Console(stderr=True)) as progress:
        client = make_client(config, progress)
        proxy = Proxy(client, config.socks_listen)
        with client, lifecycle.Signals() as signals:
            proxy.start()
            console.print(f"proxy port {proxy.address}: SOCKS5, SOCKS4a and HTTP CONNECT; ctrl-c ends it")
            signals.stop.wait()
            proxy.stop()
    return signals.exit_code


if __name__ == "__main__":
    lifecycle.main(lambda: run(sys.argv[1:]))
