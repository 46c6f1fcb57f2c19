#!/usr/bin/env python3
"""A relay: `relay.py --config FILE`, or `relay.py --help`."""

import logging
import sys
from contextlib import ExitStack

from common.ops import lifecycle, logs, memory
from common.ops.config import load
from common.ops.keystore import load_or_create_family_key, load_or_create_identity
from common.ops.reload import Reload
from common.roles.relay.listed_relay import ListedRelay

STOP_TIMEOUT = 5.0  # seconds in which what is queued may still leave


def run() -> int:
    """Builds the relay, serves until a signal, unregisters, exits."""
    lifecycle.hold_hang_ups()
    config = load("relay", sys.argv[1:])
    logs.set_up(config.nickname, config.log_level)
    lifecycle.raise_file_limit()
    memory.tune()
    keys = config.state / "keys"
    identity = load_or_create_identity(keys)
    page = None
    if config.http is not None:
        # A relay without a page need not load these.
        from common.roles.relay.status_pages import PAGES  # noqa: PLC0415
        from common.roles.status_http import StatusServer  # noqa: PLC0415

        # Listens: a taken port is told before all else, and the relay knows which no exit may dial.
        page = StatusServer(config.http, PAGES, lambda: relay.snapshot())  # noqa: PLW0108  it is made below
    relay = ListedRelay(
        identity,
        keys,
        config.listen,
        config.advertise,
        [(gateway.address, gateway.key) for gateway in config.gateways],
        network=config.network,
        nickname=config.nickname,
        exit_policy=config.exit_policy,
        family_key=load_or_create_family_key(config.family_key) if config.family_key else None,
        workers=config.workers,
        private=[page.address] if page is not None else [],
    )
    reload = Reload(
        "relay", config, lambda: load("relay", sys.argv[1:]), lambda now: relay.reconfigure(now.exit_policy)
    )
    with lifecycle.Signals(reload) as signals, ExitStack() as stack:
        relay.start()
        stack.callback(relay.stop, STOP_TIMEOUT)
        http = ""
        if page is not None:
            http = str(stack.enter_context(page).address)
            logging.info("status page http://%s/metrics", http)
        stack.callback(lambda: relay.leave(reload.config.stop_wait))  # its page shows meanwhile what is left
        stack.enter_context(lifecycle.ready(config.state, str(relay.address), identity.public, http))
        logging.info("relay %s listens on %s", config.nickname, relay.address)
        signals.stop.wait()
    return signals.exit_code


if __name__ == "__main__":
    lifecycle.main(run)
