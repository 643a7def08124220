# make demo     run the example: a table and a reliability diagram, in about two minutes
# make examples mix at hidden layers: digits, and the words of docstrings; compare recipes; in
#               three minutes
# make pictures draw the reports of docs/reading-the-report.md, and what docs/recipes.md shows
# make test     run the tests, with the docstrings' examples and the README's blocks
# make oldest   run them on the oldest Lightning and torchmetrics that pyproject.toml allows
# make newest   and on the newest of all that there is, but for torch
# make check    everything a pull request must pass: format, lint, types and tests
# make format   put the code into the project's format
# make tables   write the tables of docs/checked.md, which the tests compare
# make wheel    build the wheel, and test it as it would be installed
# make bench    measure time and memory against others, and write the table of benchmarks/README.md
# make compatibility    compare the losses of other libraries with their mixtures by hand
#
# Each makes .venv first, when it is missing or when pyproject.toml or constraints.txt changed.
# With another Python, beside it: make PYTHON=python3.12 VENV=.venv-3.12 check

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
# Written last, so an interrupted set-up starts afresh.
READY := $(VENV)/ready
# Each process takes half a gigabyte and one core.
SUITE := -m pytest --numprocesses 2

.PHONY: check lint types test oldest newest demo examples pictures tables format wheel \
	bench compatibility

check: lint types test

lint: $(READY)
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .

types: $(READY)
	$(PY) -m mypy

test: $(READY)
	$(PY) $(SUITE)

demo: $(READY)
	$(PY) examples/digits.py

examples: $(READY)
	$(PY) examples/hidden_layers.py
	$(PY) examples/recipes.py
	$(PY) examples/text.py

pictures: $(READY)
	$(PY) examples/verdicts.py docs/images
	$(PY) examples/mixes.py docs/images

tables: $(READY)
	$(PY) tests/test_tables.py

format: $(READY)
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

# From dist/, where the package's source is out of sight: what is tested is what was built.
wheel: $(READY)
	@rm -rf dist
	$(PY) -m build -qq --outdir dist .
	@$(PY) -m pip install -qq --no-deps --target dist/installed dist/*.whl
	cd dist && PYTHONPATH=installed ../$(PY) -m pytest ../tests/test_package.py

# The libraries have an environment of their own: they ask for releases that ours must not bend to.
LIBRARIES := .venv-compatibility
compatibility: $(LIBRARIES)/ready
	$(LIBRARIES)/bin/python -W ignore compatibility/run.py

# In the same one, which has the peers; they warn of the torch that they were not made for.
bench: $(LIBRARIES)/ready
	$(LIBRARIES)/bin/python -W ignore benchmarks/run.py

# Torch first and alone: an install that finds none may take another build, with gigabytes of CUDA.
$(LIBRARIES)/ready: pyproject.toml constraints.txt $(wildcard compatibility/*.txt)
	@echo "Setting up $(LIBRARIES): a few minutes, once."
	@$(PYTHON) -m venv --clear $(LIBRARIES)
	@$(LIBRARIES)/bin/python -m pip install -qq --constraint constraints.txt torch
	@$(LIBRARIES)/bin/python -m pip install -qq --constraint constraints.txt \
		--requirement compatibility/dependencies.txt --editable ".[plot]"
	@$(LIBRARIES)/bin/python -m pip install -qq --no-deps --requirement compatibility/requirements.txt
	@touch $@

# An environment of its own for each end of the range that we support, on the torch that is pinned.
OLDEST := .venv-oldest
NEWEST := .venv-newest
VARIED := torchmetrics lightning pytorch-lightning

# Old releases warn of what has changed since; their warnings are nobody's errors.
oldest: $(OLDEST)/ready
	$(OLDEST)/bin/python $(SUITE) -W default

# What is newest changes without a word in our files.
newest: $(NEWEST)/ready
	@$(NEWEST)/bin/python -m pip install -qq --constraint $(NEWEST)/torch.txt \
		--upgrade --upgrade-strategy eager --editable ".[test]"
	$(NEWEST)/bin/python $(SUITE)

$(OLDEST)/ready: pyproject.toml constraints.txt
	@echo "Setting up $(OLDEST): a few minutes, once."
	@$(PYTHON) -m venv --clear $(OLDEST)
	@$(OLDEST)/bin/python -m pip install -qq --constraint constraints.txt torch
	@for name in $(VARIED); do sed -n "s/^ *\"\($$name\)>=\([0-9.]*\)\".*/\1==\2.0.*/p" pyproject.toml; \
		done >$(OLDEST)/bounds.txt
	@for name in $(VARIED); do echo "/^$$name==/d"; done | sed -f - constraints.txt >>$(OLDEST)/bounds.txt
	@$(OLDEST)/bin/python -m pip install -qq --constraint $(OLDEST)/bounds.txt --editable ".[test]"
	@touch $@

$(NEWEST)/ready: pyproject.toml constraints.txt
	@echo "Setting up $(NEWEST): a few minutes, once."
	@$(PYTHON) -m venv --clear $(NEWEST)
	@grep "^torch==" constraints.txt >$(NEWEST)/torch.txt
	@$(NEWEST)/bin/python -m pip install -qq --constraint $(NEWEST)/torch.txt torch
	@touch $@

$(READY): pyproject.toml constraints.txt
	@echo "Setting up $(VENV): a few minutes, once."
	@$(PYTHON) -m venv --clear $(VENV)
	@$(PY) -m pip install -qq --constraint constraints.txt --editable ".[dev]"
	@touch $@
