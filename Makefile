# Two commands for a newcomer: `make demo` and `make test`. Each creates .venv once and uses it again.
PYTHON ?= python3
BIN := .venv/bin
# pybullet has wheels for Python 3.11 and older only; without it everything but the Bullet ant works, the
# MuJoCo ants among it. mujoco-warp needs Python 3.11 or newer.
EXTRAS := dev,bullet,gpu

.PHONY: install demo test lint types check docs notebooks package vega clean

install: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt setuptools
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$(EXTRAS)]'
	touch $@

demo: install
	$(BIN)/plasticity run permuted-digits --out runs/demo
	$(BIN)/plasticity report runs/demo

# Two worker processes of one thread each: more threads than cores make torch crawl.
test: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# Type checkers do not follow the folder mapping of an editable install: check the tree as installed.
types: install
	rm -rf build/types build/lib
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps --target build/types .
	cd build/types && ../../$(BIN)/mypy --config-file ../../pyproject.toml -p plasticity

check: lint types test

# The plotting library of the report's page, of the version that constraints.txt pins.
vega: install
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt vl-convert-python
	$(BIN)/python -m plasticity.scripts.report.vega

# The documentation, in build/site. Warnings are errors: dead links, docstrings of arguments that do not exist.
docs: .venv/docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

.venv/docs: .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$(EXTRAS),docs]'
	touch $@

# After a change of a page under docs/start, whose code the notebooks have.
notebooks: install
	$(BIN)/python -m plasticity.scripts.reference.notebooks docs

# The source package and the wheel, checked; then the wheel in a fresh environment, used from outside of here.
package: .venv/docs
	rm -rf dist build/lib build/fresh
	$(BIN)/python -m build --outdir dist
	$(BIN)/twine check --strict dist/*
	$(PYTHON) -m venv build/fresh
	build/fresh/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt dist/*.whl
	cd build/fresh && bin/plasticity run permuted-digits --methods none syre --seeds 0 1 --tasks 2 --out runs
	cd build/fresh && bin/plasticity report runs
	cd build/fresh && bin/python -c 'import plasticity, sys; assert plasticity.__file__.startswith(sys.prefix)'

clean:
	rm -rf .venv build *.egg-info
