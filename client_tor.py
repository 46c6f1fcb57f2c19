#!/usr/bin/env python3
"""The client: the prompt, `web URL` or `socks`; `client_tor.py --help` lists all."""

import logging
import sys
from collections.abc import Sequence

from rich.console import Console

from common.ops import lifecycle, logs
from common.ops.config import ClientConfig, load_client
from common.roles.client import Client
from common.roles.pool import PathWishes
from common.roles.prompt import Prompt, show_page
from common.roles.proxy import Proxy
from common.roles.web import fetch


def run(argv: Sequence[str]) -> int:
    """Starts a client as configured and does what was asked."""
    config, command = load_client(argv)
    logs.set_up("client", config.log_level)
    lifecycle.raise_file_limit()
    console = Console()
    client = make_client(config, Console(stderr=True))
    if command.name == "socks":
        return serve_proxy(client, config, console)
    with client:
        if command.name == "web":
            show_page(console, fetch(client, command.argument), most_lines=None)
        else:
            Prompt(client, console).run()
    return 0


def make_client(config: ClientConfig, console: Console) -> Client:
    """A client, inert, that reports its start on `console`."""
    return Client(
        [(gateway.address, gateway.key) for gateway in config.gateways],
        config.network,
        cache=config.state / "directory.json",
        wishes=PathWishes(*config.hops, config.suite),
        progress=lambda percent, text: console.print(f"{percent:3d} %  {text}", highlight=False),
        warn=lambda text: console.print(f"[yellow]warning:[/] {text}", soft_wrap=True),
    )


def serve_proxy(client: Client, config: ClientConfig, console: Console) -> int:
    """The proxy port, until a signal."""
    proxy = Proxy(client, config.socks_listen)
    try:
        with lifecycle.Signals() as signals, client:
            proxy.start()
            console.print(f"proxy port {proxy.address}: SOCKS5, SOCKS4a and HTTP CONNECT; ctrl-c ends it")
            logging.info("proxy port open")
            signals.stop.wait()
        return signals.exit_code
    finally:
        proxy.stop()


if __name__ == "__main__":
    lifecycle.main(lambda: run(sys.argv[1:]))
