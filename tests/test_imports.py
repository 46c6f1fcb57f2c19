"""Who may import whom, read from the syntax trees of all project files; and what no file may use at all.

The pure folders take bytes and the time and return values: they import nothing that waits, asks a clock or
draws a number by itself (`os.urandom` may be the default of an argument).
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PURE = ("common/wire", "common/crypto", "common/directory", "common/circuit", "common/login")
WAITING = {
    "socket", "ssl", "threading", "queue", "select", "subprocess", "sqlite3", "requests", "logging", "time", "random",
    "selectors", "asyncio", "concurrent", "multiprocessing", "signal", "socketserver", "http", "urllib",
}  # fmt: skip

BELOW_ROLES = {
    "common.errors", "common.wire", "common.crypto", "common.directory", "common.circuit", "common.login", "common.net",
    "common.ops",
}  # fmt: skip
ROLES_SHARE = {
    "common.roles.circuit_end", "common.roles.gateway_link", "common.roles.limits", "common.roles.links",
    "common.roles.memory_budget", "common.roles.status_http",
}  # fmt: skip
OF_A_ROLE = BELOW_ROLES | ROLES_SHARE

# The longest prefix of a file's path decides; each allows itself too, but for one with a slash at its end: what
# roles share knows no role.
MAY_IMPORT: dict[str, set[str]] = {
    "common/__init__": {"common"},
    "common/errors": set(),
    "common/wire": {"common.errors"},
    "common/crypto": {"common.errors", "common.wire"},
    "common/directory": {"common.errors", "common.wire", "common.crypto.signing"},
    "common/circuit": {"common.errors", "common.wire", "common.crypto"},
    "common/login": {"common.errors", "common.wire", "common.crypto"},
    "common/net": {"common.errors", "common.wire.cells", "common.wire.framing"},
    "common/roles/": OF_A_ROLE,
    "common/roles/gateway": OF_A_ROLE,
    "common/roles/relay": OF_A_ROLE,
    "common/roles/client": OF_A_ROLE,
    "common/roles/proxy": OF_A_ROLE | {"common.roles.client"},
    "common/roles/auth_server": OF_A_ROLE,
    "common/roles/auth_client": OF_A_ROLE,
    "common/roles/prompt": OF_A_ROLE | {"common.roles.client", "common.roles.proxy", "common.roles.auth_client"},
    "common/ops": {"common.errors", "common.wire", "common.crypto", "common.directory", "common.net.deadline"},
    "common/ops/launcher": {
        "common.errors", "common.directory", "common.net.deadline", "common.ops", "common.roles.client.bootstrap",
    },
}
SCRIPTS_MAY_IMPORT = {"common.roles", "common.ops"}
FORBIDDEN_MODULES = {"pickle", "marshal", "shelve", "dill"}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__"}


def python_files(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


COMMON = python_files("common")
SCRIPTS = sorted(ROOT.glob("*.py"))
EVERYTHING = [*COMMON, *SCRIPTS, *python_files("tests")]


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imports(tree: ast.Module) -> Iterator[str]:
    """Every imported name, with the module it is from: `from a.b import c` is a.b.c."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide who imports whom"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def within(name: str, allowed: set[str]) -> bool:
    return any(name == prefix or name.startswith(prefix + ".") for prefix in allowed)


def forbidden(path: str, tree: ast.Module) -> list[str]:
    """What the file imports and may not."""
    prefix = max((each for each in MAY_IMPORT if path.startswith(each)), key=len)
    allowed = MAY_IMPORT[prefix] | {prefix.replace("/", ".").removesuffix(".__init__")}
    pure = path.startswith(PURE)
    wrong = []
    for name in imports(tree):
        top = name.partition(".")[0]
        if top == "common" and not within(name, allowed):
            wrong.append(name)
        if pure and top in WAITING:
            wrong.append(name)
    return wrong


@pytest.mark.parametrize("path", COMMON, ids=name_of)
def test_the_import_table_holds(path: Path) -> None:
    assert forbidden(name_of(path), tree_of(path)) == []


@pytest.mark.parametrize("path", SCRIPTS, ids=name_of)
def test_scripts_import_roles_and_ops_only(path: Path) -> None:
    names = [name for name in imports(tree_of(path)) if name.startswith("common")]
    assert [name for name in names if not within(name, SCRIPTS_MAY_IMPORT)] == []


@pytest.mark.parametrize("path", EVERYTHING, ids=name_of)
def test_nothing_imports_a_script(path: Path) -> None:
    scripts = {script.stem for script in SCRIPTS}
    assert [name for name in imports(tree_of(path)) if name.partition(".")[0] in scripts] == []


@pytest.mark.parametrize("path", [*COMMON, *SCRIPTS], ids=name_of)
def test_no_code_from_data_and_no_guessable_numbers(path: Path) -> None:
    tree = tree_of(path)
    names = {name.partition(".")[0] for name in imports(tree)}
    called = {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    assert names & FORBIDDEN_MODULES == set()
    assert called & FORBIDDEN_CALLS == set()
    if path in COMMON:
        assert "random" not in names, "the module random can be predicted: use os.urandom or secrets"


@pytest.mark.parametrize(
    ("path", "code", "wrong"),
    [
        ("common/wire/x.py", "import socket", ["socket"]),
        ("common/wire/x.py", "def f():\n    from time import time", ["time.time"]),
        ("common/wire/x.py", "from common.crypto.kdf import K", ["common.crypto.kdf.K"]),
        ("common/wire/x.py", "from common.wire import cells\nfrom common.errors import Closed\nimport struct, os", []),
        ("common/directory/x.py", "from common.crypto import signing", []),
        ("common/directory/x.py", "from common.crypto import layers", ["common.crypto.layers"]),
        ("common/circuit/x.py", "from common.net.link import Link", ["common.net.link.Link"]),
        ("common/login/x.py", "from common.crypto import scram\nfrom common.wire import codec", []),
        ("common/login/x.py", "import sqlite3\nfrom common.circuit import hop", ["sqlite3", "common.circuit.hop"]),
        ("common/net/x.py", "import socket\nfrom common.wire.messages import Data", ["common.wire.messages.Data"]),
        ("common/ops/x.py", "from common.roles.client.bootstrap import A", ["common.roles.client.bootstrap.A"]),
        ("common/ops/launcher.py", "from common.roles.client.bootstrap import A", []),
        ("common/roles/x.py", "from common.net.link import Link\nimport random_thing", []),
        ("common/roles/x.py", "from common.roles.relay.exit import Exit", ["common.roles.relay.exit.Exit"]),
        ("common/roles/relay/x.py", "from common.roles import links\nfrom common.roles.relay import exit", []),
        ("common/roles/relay/x.py", "from common.roles.client import wish", ["common.roles.client.wish"]),
        ("common/roles/proxy/x.py", "from common.roles.client import wish", []),
    ],
)
def test_the_check_itself(path: str, code: str, wrong: list[str]) -> None:
    assert forbidden(path, ast.parse(code)) == wrong


def test_every_top_level_import_is_known() -> None:
    """What is not the standard library stands in requirements.txt, or is what requests stands on."""
    packages = {"cryptography", "requests", "urllib3", "rich", "prometheus_client", "common"}
    tops = {name.partition(".")[0] for path in [*COMMON, *SCRIPTS] for name in imports(tree_of(path))}
    assert tops - packages - set(sys.stdlib_module_names) == set()
