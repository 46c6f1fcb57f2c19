"""`python -m tests.system.lying_exit PORT FILE OPTIONS...` is relay.py, but for streams to PORT it stands in the middle.

It ends their TLS with a certificate of its own, begins another to the real server, and passes on what both say,
which it also writes to FILE. All else is the project's own code.
"""

import runpy
import socket
import ssl
import sys
import threading
from pathlib import Path

from common.errors import EndReason
from common.net.tls import client_context, server_context
from common.ops.keystore import load_or_create_identity
from common.roles.relay.exit import ExitStream
from common.wire.messages import IPAddress

PATIENCE = 30.0


class Middle:
    """Accepts in place of the server on a loopback port."""

    def __init__(self, port: int, file: Path) -> None:
        identity = load_or_create_identity(file.parent / f"{file.name}.keys")
        self._context = server_context(identity.certificate, identity.key)
        self._real = ("127.0.0.1", port)
        self._file = file.open("ab", buffering=0)
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            sock, _ = self._server.accept()
            threading.Thread(target=self._stand_between, args=(sock,), daemon=True).start()

    def _stand_between(self, sock: socket.socket) -> None:
        sock.settimeout(PATIENCE)
        try:
            client = self._context.wrap_socket(sock, server_side=True)
            server = client_context().wrap_socket(socket.create_connection(self._real, PATIENCE))
        except OSError:
            sock.close()
            return
        back = threading.Thread(target=self._pass_on, args=(server, client), daemon=True)
        back.start()
        self._pass_on(client, server)
        back.join(PATIENCE)
        client.close()
        server.close()

    def _pass_on(self, one: ssl.SSLSocket, other: ssl.SSLSocket) -> None:
        try:
            while data := one.recv(65_536):
                self._file.write(data)
                other.sendall(data)
        except OSError:
            pass
        for each in (one, other):
            try:
                each.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # it has ended


def main() -> None:
    """Patches the dialling and becomes the relay."""
    port, file = int(sys.argv[1]), Path(sys.argv[2])
    middle = Middle(port, file)
    honest = ExitStream.dial

    def dial(self: ExitStream, addresses: list[IPAddress], reason: EndReason) -> None:
        if self.port == port:
            self.port = middle.port
        honest(self, addresses, reason)

    ExitStream.dial = dial  # type: ignore[method-assign]
    sys.argv = ["relay.py", *sys.argv[3:]]
    runpy.run_path("relay.py", run_name="__main__")


if __name__ == "__main__":
    main()
