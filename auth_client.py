#!/usr/bin/env python3
"""The login client: `auth_client.py signup|login NAME`, through the network unless --direct; see --help."""

import sys
from collections.abc import Sequence

from common.ops import lifecycle, logs
from common.ops.config import load_client
from common.ops.files import private_folder
from common.roles.prompt.login_screen import run_login


def run(argv: Sequence[str]) -> int:
    """Signs up, or logs in and talks, as `client_tor.py server` does."""
    config, command = load_client(["server", *argv], script="auth_client.py")
    logs.set_up("auth_client", config.log_level)
    lifecycle.raise_file_limit()
    private_folder(config.state)
    return run_login(config, command.login)


if __name__ == "__main__":
    lifecycle.main(lambda: run(sys.argv[1:]))
