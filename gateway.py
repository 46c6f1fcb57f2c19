#!/usr/bin/env python3
"""The directory gateway: `gateway.py --config FILE`, or `gateway.py --help`."""

import logging
import sys
from contextlib import ExitStack

from common.ops import lifecycle, logs, memory
from common.ops.config import load
from common.ops.keystore import load_or_create_identity
from common.ops.reload import Reload
from common.roles.gateway.gateway import Gateway


def run() -> int:
    """Builds the gateway, serves until a signal, exits."""
    lifecycle.hold_hang_ups()
    config = load("gateway", sys.argv[1:])
    logs.set_up("gateway", config.log_level)
    lifecycle.raise_file_limit()
    memory.tune()
    identity = load_or_create_identity(config.state / "keys")
    gateway = Gateway(
        [config.listen],
        identity.private_key,
        identity.certificate,
        identity.key,
        network=config.network,
        state_dir=config.state,
        allow_private=config.allow_private,
    )
    reload = Reload("gateway", config, lambda: load("gateway", sys.argv[1:]))
    with lifecycle.Signals(reload) as signals, ExitStack() as stack:
        gateway.start()
        stack.callback(gateway.stop)
        http = ""
        if config.http is not None:
            # A gateway without a page need not load these.
            from common.roles.gateway.status_pages import PAGES  # noqa: PLC0415
            from common.roles.status_http import StatusServer  # noqa: PLC0415

            http = str(stack.enter_context(StatusServer(config.http, PAGES, gateway.snapshot)).address)
            logging.info("status page http://%s/", http)
        stack.enter_context(lifecycle.ready(config.state, str(gateway.address), identity.public, http))
        logging.info("listening on %s, key %s", gateway.address, identity.public.hex())
        signals.stop.wait()
    return signals.exit_code


if __name__ == "__main__":
    lifecycle.main(run)
