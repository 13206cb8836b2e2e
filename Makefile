# Two commands for a newcomer: `make demo` and `make test`. Each creates .venv once and uses it again.
PYTHON ?= python3
BIN := .venv/bin
# pybullet has wheels for Python 3.11 and older only; without it everything but the Bullet ant works, the
# MuJoCo ants among it. mujoco-warp needs Python 3.11 or newer.
EXTRAS := dev,bullet,gpu

.PHONY: install demo test lint types check vega clean

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

clean:
	rm -rf .venv build *.egg-info
