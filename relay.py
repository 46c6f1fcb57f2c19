#!/usr/bin/env python3
"""A relay: `relay.py --config FILE`, or `relay.py --help`."""

import logging
import sys

from common.ops import lifecycle, logs, memory
from common.ops.config import load
from common.ops.keystore import load_or_create_family_key, load_or_create_identity
from common.ops.reload import Reload
from common.roles.relay.listed_relay import ListedRelay

STOP_TIMEOUT = 5.0  # seconds in which what is queued may still leave


def run() -> int:
    """Builds the relay, serves until a signal, unregisters, exits."""
    config = load("relay", sys.argv[1:])
    logs.set_up(config.nickname, config.log_level)
    lifecycle.raise_file_limit()
    memory.tune()
    keys = config.state / "keys"
    identity = load_or_create_identity(keys)
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
    )
    reload = Reload(
        "relay", config, lambda: load("relay", sys.argv[1:]), lambda now: relay.reconfigure(now.exit_policy)
    )
    with lifecycle.Signals(reload) as signals:
        relay.start()
        try:
            with lifecycle.ready(config.state, str(relay.address), identity.public):
                logging.info("relay %s listens on %s", config.nickname, relay.address)
                signals.stop.wait()
        finally:
            relay.stop(STOP_TIMEOUT)
    return signals.exit_code


if __name__ == "__main__":
    lifecycle.main(run)
