PYTHON := .venv/bin/python
# What .venv is made with, by launch_network.sh too: `make clean`, then `make PYTHON3=/usr/bin/python3 bench`.
PYTHON3 ?= python3
export PYTHON3

.PHONY: run test lint coverage soak bench bench-growth bench-directory bench-wan bench-workers bench-login fuzz clean

run:  ## a network of five relays and the prompt
	./launch_network.sh 5 --client

test: lint  ## everything that must pass before a change lands
	$(PYTHON) -m pytest -n 2

lint: .venv/developer
	$(PYTHON) -m ruff check .
	$(PYTHON) -m mypy

coverage: .venv/developer  ## what no test runs that is not a program of its own: lines and branches of each file
	$(PYTHON) -m coverage run -m pytest -m "not system and not soak"
	$(PYTHON) -m coverage report

soak: .venv/developer  ## what takes long: 1 GB each way, byte for byte, and a client left open for an hour
	$(PYTHON) -m pytest -m soak tests/system
	$(PYTHON) -m tests.soak

bench: .venv/developer
	$(PYTHON) -m tests.benchmarks

bench-growth: .venv/developer  ## curves from 1 to 1,000 circuits and 2,000 streams: a quarter of an hour
	$(PYTHON) -m tests.benchmarks.growth

bench-directory: .venv/developer  ## a gateway with 10,000 relays and 1,000 clients: ten minutes, 20,000 open files
	$(PYTHON) -m tests.benchmarks.directory

bench-wan: .venv/developer  ## transfers and a prompt over an emulated wide area: root, twenty minutes; docs/performance-wan.md has a run
	$(PYTHON) -m tests.benchmarks.wan

bench-workers: .venv/developer  ## a relay with one process and with two, side by side: five minutes
	$(PYTHON) -m tests.benchmarks.workers

bench-login: .venv/developer  ## a thousand users at a login server, two hundred at once, straight and by 3 hops: seven minutes
	$(PYTHON) -m tests.benchmarks.login
	$(PYTHON) -m tests.benchmarks.login --hops 3

fuzz: .venv/developer  ## a minute each of hostile peers at the ports of a real gateway and a real relay
	$(PYTHON) -m tests.fuzz.gateway_port
	$(PYTHON) -m tests.fuzz.relay_port

clean:
	rm -rf .venv build .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/developer: requirements.txt requirements-dev.txt
	$(PYTHON3) -m venv .venv
	.venv/bin/pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch .venv/installed $@
