#!/usr/bin/env python3
"""The login server: `auth_server.py --config FILE`, or `auth_server.py --help`."""

import logging
import sys
from contextlib import ExitStack

from common.ops import lifecycle, logs, memory
from common.ops.config import load
from common.ops.keystore import load_or_create_identity
from common.ops.reload import Reload
from common.roles.auth_server.auth_server import AuthServer


def run() -> int:
    """Builds the login server, serves until a signal, exits."""
    lifecycle.hold_hang_ups()
    config = load("auth_server", sys.argv[1:])
    logs.set_up("auth_server", config.log_level)
    lifecycle.raise_file_limit()
    memory.tune()
    identity = load_or_create_identity(config.state / "keys")
    server = AuthServer(
        config.listen,
        identity.certificate,
        identity.key,
        config.database or config.state / "users.sqlite",
        iterations=config.iterations,
        max_users=config.max_users,
        closed=config.closed,
    )
    reload = Reload(
        "auth_server",
        config,
        lambda: load("auth_server", sys.argv[1:]),
        lambda now: server.reconfigure(closed=now.closed),
    )
    with lifecycle.Signals(reload) as signals, ExitStack() as stack:
        stack.callback(server.stop)
        server.start()
        stack.enter_context(lifecycle.ready(config.state, str(server.address), identity.public))
        logging.info("listening on %s, fingerprint %s", server.address, identity.public.hex())
        signals.stop.wait()
    return signals.exit_code


if __name__ == "__main__":
    lifecycle.main(run)
