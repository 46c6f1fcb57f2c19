PYTHON := .venv/bin/python

.PHONY: run test lint soak bench clean

run:  ## a network of five relays and the prompt
	./launch_network.sh 5 --client

test: lint  ## everything that must pass before a change lands
	$(PYTHON) -m pytest -n 2

lint: .venv/developer
	$(PYTHON) -m ruff check .
	$(PYTHON) -m mypy

soak: .venv/developer  ## what takes long: 1 GB each way, byte for byte, and a client left open for an hour
	$(PYTHON) -m pytest -m soak tests/system
	$(PYTHON) -m tests.soak

bench: .venv/developer
	$(PYTHON) -m tests.benchmarks

clean:
	rm -rf .venv build .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/developer: requirements.txt requirements-dev.txt
	python3 -m venv .venv
	.venv/bin/pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch .venv/installed $@
