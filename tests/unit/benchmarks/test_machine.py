"""How the interpreter was built, from what real ones say of themselves."""

import pytest

from tests.benchmarks.machine import python_build

WITH = "built with profile-guided optimisation"
WITHOUT = "built without profile-guided optimisation"
OPTIMISED_LATER = {  # `make profile-opt` after a plain `configure`
    "CONFIG_ARGS": "'--prefix=/usr/local'",
    "PY_CFLAGS_NODIST": "-std=c11 -fvisibility=hidden -fprofile-use -fprofile-correction -I./Include/internal",
}
DOCKER = {
    "CONFIG_ARGS": "'--build=x86_64-linux-gnu' '--enable-loadable-sqlite-extensions' '--enable-optimizations' "
    "'--enable-option-checking=fatal' '--enable-shared' '--with-lto' '--with-ensurepip' "
    "'build_alias=x86_64-linux-gnu' 'PROFILE_TASK='",
    "PY_CFLAGS": "-Wsign-compare -DNDEBUG -g -fwrapv -O3 -Wall",
}
PLAIN = {  # compiled by pyenv with its defaults; the flag for optimised builds is recorded whether it is used or not
    "CONFIG_ARGS": "'--prefix=/opt/3.11.7' '--enable-shared' '--libdir=/opt/3.11.7/lib' "
    "'LDFLAGS=-L/opt/3.11.7/lib -Wl,-rpath,/opt/3.11.7/lib' 'CPPFLAGS=-I/opt/3.11.7/include'",
    "PY_CFLAGS": "-Wsign-compare -DNDEBUG -g -fwrapv -O3 -Wall",
    "PY_CFLAGS_NODIST": "-std=c11 -Wextra -Wno-unused-parameter -Wno-missing-field-initializers "
    "-Werror=implicit-function-declaration -fvisibility=hidden  -I./Include/internal",
    "PGO_PROF_USE_FLAG": "-fprofile-use -fprofile-correction",
}
DEBIAN = {  # 12, python3.11
    "CONFIG_ARGS": "'--enable-shared' '--prefix=/usr' '--libdir=/usr/lib/x86_64-linux-gnu' '--enable-ipv6' "
    "'--enable-loadable-sqlite-extensions' '--with-dbmliborder=bdb:gdbm' '--with-computed-gotos' "
    "'--without-ensurepip' '--with-system-expat' '--with-dtrace' '--with-ssl-default-suites=openssl' "
    "'CC=x86_64-linux-gnu-gcc' 'CFLAGS=-g   -fstack-protector-strong -Wformat -Werror=format-security ' "
    "'LDFLAGS=  -g -fwrapv -O2   ' 'CPPFLAGS=-Wdate-time -D_FORTIFY_SOURCE=2'",
    "PY_CFLAGS": "-Wsign-compare -DNDEBUG -g -fwrapv -O2 -Wall -g   -fstack-protector-strong -Wformat "
    "-Werror=format-security  -g -fwrapv -O2   ",
    "PGO_PROF_USE_FLAG": "",
}


@pytest.mark.parametrize(
    ("config", "shared", "told"),
    [
        (DOCKER, True, WITH),
        (OPTIMISED_LATER, False, WITH),
        (PLAIN, True, WITHOUT),
        ({"CONFIG_ARGS": "'--prefix=/opt/3.12.1'", "PY_CFLAGS": "-O3"}, False, WITHOUT),
        ({"CONFIG_ARGS": None}, False, WITHOUT),
    ],
)
def test_what_the_record_says_is_told(config: dict[str, str | None], shared: bool, told: str) -> None:
    assert python_build(config, shared) == told


def test_a_record_that_is_not_of_the_program_that_runs_is_not_believed() -> None:
    assert python_build(DEBIAN, shared=False).startswith("a distribution's build that does not record")
    assert python_build(DEBIAN, shared=True) == WITHOUT
