#!/usr/bin/env python3
"""The client: the prompt, `web URL` or `socks`; `client_tor.py --help` lists all."""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console

from common.ops import lifecycle, logs
from common.ops.config import PREFIX, ClientConfig, load_client
from common.ops.files import private_folder
from common.roles.client import Client
from common.roles.pool import PathWishes
from common.roles.programs import AddressNotices
from common.roles.progress import StartProgress
from common.roles.prompt import Prompt, show_page
from common.roles.proxy import Proxy, ProxyRules
from common.roles.web import complete_url, fetch


def run(argv: Sequence[str]) -> int:
    """Starts a client as configured and does what was asked."""
    config, command = load_client(argv)
    os.environ.pop(PREFIX + "PROXY_AUTH", None)  # not for the programs that are started from here
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
        proxies = open_proxies(config, client)
        with client, lifecycle.Signals() as signals:
            for proxy in proxies:
                proxy.start()
                console.print(f"proxy port {proxy.address}: SOCKS5, SOCKS4a and HTTP CONNECT; ctrl-c ends it")
            signals.stop.wait()
            for proxy in proxies:
                proxy.stop()
    return signals.exit_code


def open_proxies(config: ClientConfig, client: Client) -> list[Proxy]:
    """A proxy port for each address, listening and inert."""
    rules = ProxyRules(config.proxy_auth, config.isolate, config.safe_socks)
    notices = AddressNotices(client.pump)
    return [Proxy(client, address, rules, notices) for address in config.socks_listen]


if __name__ == "__main__":
    lifecycle.main(lambda: run(sys.argv[1:]))
