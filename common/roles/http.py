"""HTTP through the network: a `requests` session whose every connection is a stream of a client.

Nothing of the environment's proxy settings is used: they could lead around the network.
"""

import os
import socket

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import NewConnectionError

from common.errors import Refused
from common.roles.client import Client
from common.roles.wish import Isolation

_CA_VARIABLES = ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE")  # more certificate authorities, as for other programs


class NetworkSession(requests.Session):
    """A `requests.Session` through a client; `isolation` keeps its circuits apart from others'."""

    def __init__(self, client: Client, isolation: Isolation = ()) -> None:
        super().__init__()
        self.trust_env = False
        self.verify = next((os.environ[name] for name in _CA_VARIABLES if os.environ.get(name)), True)
        adapter = _Adapter()
        adapter.poolmanager.pool_classes_by_scheme = _pool_classes(client, isolation)
        self.mount("http://", adapter)
        self.mount("https://", adapter)


class _Adapter(HTTPAdapter):
    """The usual one, with a pool manager that may be changed."""


def _pool_classes(client: Client, isolation: Isolation) -> dict[str, type[HTTPConnectionPool]]:
    def connect(connection: HTTPConnection) -> socket.socket:
        try:
            return client.connect(connection.host.strip("[]"), connection.port, isolation)
        except Refused as error:
            raise NewConnectionError(connection, str(error)) from error

    class Connection(HTTPConnection):
        def _new_conn(self) -> socket.socket:
            return connect(self)

    class SecureConnection(HTTPSConnection):
        def _new_conn(self) -> socket.socket:
            return connect(self)

    class Pool(HTTPConnectionPool):
        ConnectionCls = Connection

    class SecurePool(HTTPSConnectionPool):
        ConnectionCls = SecureConnection

    return {"http": Pool, "https": SecurePool}
