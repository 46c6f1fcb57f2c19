"""The public Python API: `Client` opens streams (`connect`), HTTP sessions (`session`), and tells of its circuits.

It is imported when it is first asked for, so that a daemon does not load the client's part.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from common.roles.client.client import Client

__all__ = ["Client"]


def __getattr__(name: str) -> Any:
    """`common.Client`."""
    if name == "Client":
        from common.roles.client.client import Client  # noqa: PLC0415

        return Client
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
