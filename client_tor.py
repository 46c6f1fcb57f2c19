#!/usr/bin/env python3
"""The client: the prompt, or one of its choices as a command; `client_tor.py --help` lists all."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console

from common.ops import lifecycle, logs
from common.ops.config import ClientCommand, ClientConfig, load_client
from common.ops.files import private_folder
from common.roles.answers import Answers, check_argument, control, show_clients
from common.roles.client import Client
from common.roles.pool import PathWishes
from common.roles.progress import StartProgress
from common.roles.prompt import Prompt, history
from common.roles.proxy import Proxy


def run(argv: Sequence[str]) -> int:
    """Starts a client as configured and does what was asked."""
    config, command = load_client(argv)
    logs.set_up("client", config.log_level)
    lifecycle.raise_file_limit()
    private_folder(config.state)
    console = Console()
    if command.name == "socks":
        return serve_proxy(config, console)
    if command.name == "status":
        shown = show_clients(config.state, console, targets=command.targets, as_json=command.as_json)
        return 0 if shown else lifecycle.FAILED
    check_argument(command.name, command.argument)
    with running_client(config, command.name or "prompt") as client:
        answers = Answers(client, console, Console(stderr=True), config.browser, config.github_api)
        try:
            return answer(answers, config, command)
        finally:
            answers.close()


def answer(answers: Answers, config: ClientConfig, command: ClientCommand) -> int:
    """The prompt, or one choice; 0 when it was done."""
    match command.name:
        case "web" if command.save is not None:
            answers.save_page(command.argument, command.save, as_json=command.as_json)
        case "web":
            opened = None if command.as_text or command.as_json else answers.open_page(command.argument)
            if opened is not None:
                opened.wait()
            else:
                answers.print_page(command.argument, as_json=command.as_json)
        case "git":
            answers.git(command.argument, repositories=command.repositories, as_json=command.as_json)
        case "path":
            answers.path(command.argument, as_json=command.as_json)
        case _:
            with history(config.state / "history", answers.errors.print) as ask:
                Prompt(answers, ask).run()
    return 0


@contextmanager
def running_client(config: ClientConfig, program: str) -> Iterator[Client]:
    """A client as configured, started, with its progress on standard error."""
    with StartProgress(Console(stderr=True)) as progress, make_client(config, progress) as client:
        with control(client, config.state, program):
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
        with client, control(client, config.state, "socks"), lifecycle.Signals() as signals:
            proxy.start()
            console.print(f"proxy port {proxy.address}: SOCKS5, SOCKS4a and HTTP CONNECT; ctrl-c ends it")
            signals.stop.wait()
            proxy.stop()
    return signals.exit_code


if __name__ == "__main__":
    lifecycle.main(lambda: run(sys.argv[1:]))
