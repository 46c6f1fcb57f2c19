PYTHON := .venv/bin/python

.PHONY: run test lint bench soak clean

run:  ## a network of five relays and the prompt
	./launch_network.sh 5 --client

test: lint  ## everything that must pass before a change lands
	$(PYTHON) -m pytest -n 2

lint: .venv/developer
	$(PYTHON) -m ruff check .
	$(PYTHON) -m mypy

bench: .venv/developer
	$(PYTHON) -m tests.benchmarks

soak: .venv/developer  ## a client left open for an hour, a request every second
	$(PYTHON) -m tests.soak

clean:
	rm -rf .venv build .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/developer: requirements.txt requirements-dev.txt
	python3 -m venv .venv
	.venv/bin/pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch .venv/installed $@
