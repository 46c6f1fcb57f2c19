#!/usr/bin/env python3
"""The client: the prompt, or one of its choices as a command; `client_tor.py --help` lists all."""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from common.ops import lifecycle, logs, memory
from common.ops.command_line import ClientCommand
from common.ops.config import PREFIX, ClientConfig, load_client
from common.ops.files import private_folder
from common.ops.reload import Reload
from common.roles.client.client import Client
from common.roles.client.client_run import make_client, path_wishes, running_client
from common.roles.client.control import control
from common.roles.client.progress import StartProgress
from common.roles.client.starting import Starting
from common.roles.proxy.programs import AddressNotices
from common.roles.proxy.proxy import Proxy, ProxyRules

if TYPE_CHECKING:
    from common.roles.prompt.answers import Answers
    from common.roles.prompt.login_screen import LoginScreen
    from common.roles.relay.listed_relay import ListedRelay

STOP_TIMEOUT = 5.0  # seconds in which what is queued at the relay may still leave


def run(argv: Sequence[str]) -> int:
    """Starts a client as configured and does what was asked."""
    environ = dict(os.environ)
    config, command = load_client(argv, environ)
    os.environ.pop(PREFIX + "PROXY_AUTH", None)  # not for the programs that are started from here
    logs.set_up("client", config.log_level)
    lifecycle.raise_file_limit()
    memory.tune()
    private_folder(config.state)
    if command.name == "socks" or (command.name == "relay" and not sys.stdin.isatty()):
        return serve_proxy(config, lambda: load_client(argv, environ)[0])
    if command.name in ("", "relay"):
        return prompt(config, command.name or "prompt")
    if command.name == "server" and (command.login.direct or config.login is None):
        from common.roles.prompt.login_screen import run_login  # noqa: PLC0415  only who logs in loads it

        return run_login(config, command.login)
    return ask(config, command)


def ask(config: ClientConfig, command: ClientCommand) -> int:
    """One choice of the prompt, or `status`."""
    from rich.console import Console  # noqa: PLC0415  the proxy port starts without all that

    from common.roles.prompt.answers import Answers, check_argument, show_clients  # noqa: PLC0415  nor this

    console = Console()
    if command.name == "status":
        shown = show_clients(
            config.state, console, targets=command.targets, as_json=command.as_json, wait=command.wait
        )
        return 0 if shown else lifecycle.FAILED
    check_argument(command.name, command.argument)
    with serving_relay(config) as own, running_client(config, command.name, public(own)) as client:
        answers = Answers(client, console, Console(stderr=True), config.browser, config.github_api)
        try:
            return answer(answers, config, command)
        finally:
            answers.close()


def answer(answers: "Answers", config: ClientConfig, command: ClientCommand) -> int:
    """One choice; 0 when it was done."""
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
        case "server":
            from common.roles.prompt.login_screen import editing  # noqa: PLC0415

            login_screen(answers, config).run(command.login, editing())
        case _:
            answers.path(command.argument, as_json=command.as_json)
    return 0


def prompt(config: ClientConfig, program: str) -> int:
    """The prompt, at once: the client starts meanwhile, and while what only the prompt needs is loaded."""
    starting = Starting()
    with serving_relay(config) as own, ExitStack() as stack:
        client = make_client(config, starting.progress, starting.warn, public(own))
        stack.enter_context(starting.begin(client))
        stack.enter_context(control(client, config.state, program))

        from rich.console import Console  # noqa: PLC0415

        from common.roles.prompt.answers import Answers  # noqa: PLC0415
        from common.roles.prompt.prompt import Prompt, history  # noqa: PLC0415

        answers = Answers(client, Console(), Console(stderr=True), config.browser, config.github_api)
        stack.callback(answers.close)
        ask_line = stack.enter_context(history(config.state / "history", answers.errors.print))
        Prompt(answers, login_screen(answers, config), ask_line, starting).run()
    return 0


def login_screen(answers: "Answers", config: ClientConfig) -> "LoginScreen":
    """The login server's, through the network."""
    from common.roles.prompt.login_screen import LoginScreen, through  # noqa: PLC0415

    return LoginScreen(through(answers.client), config.login, config.state, answers.console, answers.errors)


@contextmanager
def serving_relay(config: ClientConfig) -> "Iterator[ListedRelay | None]":
    """The relay that this client is too, if it is one. They share the process and nothing else."""
    if not config.relay:
        yield None
        return
    from common.ops.keystore import (  # noqa: PLC0415  most clients are no relay
        load_or_create_family_key,
        load_or_create_identity,
    )
    from common.roles.relay.listed_relay import ListedRelay  # noqa: PLC0415  nor this

    family = config.relay_family_key
    keys = config.state / "relay"
    identity = load_or_create_identity(keys)
    relay = ListedRelay(
        identity,
        keys,
        config.relay_listen,
        config.relay_advertise,
        config.gateways,
        network=config.network,
        nickname=config.relay_nickname,
        exit_policy=config.relay_exit_policy,
        family_key=load_or_create_family_key(family) if family else None,
        private=config.socks_listen,
    )
    try:
        relay.start()
        print(f"relay {config.relay_nickname} on {relay.address} while this runs", flush=True)
        yield relay
    finally:
        relay.stop(STOP_TIMEOUT)


def public(relay: "ListedRelay | None") -> bytes | None:
    """What a client calls its own relay by, which it does not use."""
    return relay.public if relay is not None else None


def serve_proxy(config: ClientConfig, read: Callable[[], ClientConfig]) -> int:
    """The proxy port, until a signal; a port that is taken is told before anything is started.

    `read` gives the configuration as it is now.
    """
    lifecycle.hold_hang_ups()
    with ExitStack() as stack:
        own = stack.enter_context(serving_relay(config))
        progress = stack.enter_context(StartProgress(sys.stderr))
        client = make_client(config, progress, progress.warn, public(own))
        proxies = open_proxies(config, client)

        def use(now: ClientConfig) -> None:
            client.reconfigure(path_wishes(now, public(own)))
            if own is not None:
                own.reconfigure(now.relay_exit_policy)

        reload = Reload("client", config, read, use)
        with control(client, config.state, "socks"), client, lifecycle.Signals(reload) as signals:
            for proxy in proxies:
                proxy.start()
                print(f"proxy port {proxy.address}: SOCKS5, SOCKS4a and HTTP CONNECT; ctrl-c ends it", flush=True)
            lifecycle.tell_started()
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
