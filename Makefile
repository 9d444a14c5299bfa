# Needs Python 3.11 or newer and make; everything else is put into .venv/.
PYTHON ?= python3
export RAY_AUTH_MODE ?= disabled
export TOKENIZERS_PARALLELISM ?= false
PIP_AUDIT := 2.10.1

.PHONY: setup sweep test quick lint types layers tests docs guides faults long cluster-test two-hosts audit clean

setup: .venv/.done

.venv/.done: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version.split()[0] + "; run: make PYTHON=python3.11")'
	test -x .venv/bin/python || $(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --disable-pip-version-check uv -c constraints.txt
	.venv/bin/uv pip install --quiet --compile-bytecode --python .venv/bin/python -c constraints.txt -e '.[dev]'
# Apart, for the tests that need them: every process that loads a model would import them.
	.venv/bin/uv pip install --quiet --python .venv/bin/python -c constraints.txt --no-deps --target .venv/quantization bitsandbytes torchao
# xxhash is the only package that wandb imports and the others do not need.
	.venv/bin/uv pip install --quiet --python .venv/bin/python -c constraints.txt --no-deps --target .venv/trackers wandb xxhash
	touch $@

sweep: setup
	.venv/bin/python experiments/sweep.py

test: setup
	.venv/bin/python tests/gate.py

# What starts no processes: less than two and a half minutes.
quick: lint layers
	.venv/bin/python -m pytest tests/unit --durations=20 --durations-min=1

lint: setup
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .

types: setup
	.venv/bin/basedpyright

layers: setup
	.venv/bin/lint-imports

tests: setup
	.venv/bin/python -m pytest

docs: setup
	NO_MKDOCS_2_WARNING=1 .venv/bin/python -m mkdocs build --strict

guides: setup
	.venv/bin/python -m pytest tests/system/guides

faults: setup
	.venv/bin/python -m pytest tests/system/faults

long: setup
	.venv/bin/python -m pytest -m long
	PYTHONPATH=$(CURDIR)/.venv/trackers .venv/bin/python -m pytest -m long tests/integration/tracking/test_secrets_stay_out.py

cluster-test: setup
	.venv/bin/python -m pytest tests/system/cluster
	.venv/bin/python -m pytest -m long tests/integration/search/test_sweep_files.py

two-hosts: setup
	.venv/bin/python -m pytest tests/system/two_hosts

# Asks PyPI for known vulnerabilities of the pinned versions, so it needs the network.
audit: setup
	.venv/bin/uv tool run --from pip-audit==$(PIP_AUDIT) pip-audit --requirement constraints.txt --no-deps --disable-pip --strict

clean:
	rm -rf .venv build dist site *.egg-info
