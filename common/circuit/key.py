"""Enums that are keys of the tables of states."""

from enum import Enum


class Key(Enum):
    """Members hash by identity: `Enum` hashes their names, in Python, and a table asks for that per cell."""

    __hash__ = object.__hash__
