# make demo   create the environment, install, run the main job on bundled real data
# make test   the same environment with the development tools, all checks and tests
PYTHON ?= python3
BIN = .venv/bin/python

.PHONY: demo test clean

demo: .venv/installed
	$(BIN) -m mi_duck demo

test: .venv/installed-dev
	$(BIN) -m ruff check .
	$(BIN) -m ruff format --check .
	$(BIN) -m mypy
	$(BIN) -m pytest -q --numprocesses auto --dist loadfile --no-loadscope-reorder

.venv/created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; name one with: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -m venv .venv || { rm -rf .venv; echo "on Debian and Ubuntu: sudo apt install python3-venv"; exit 1; }
	touch $@

.venv/installed: .venv/created pyproject.toml
	$(BIN) -m pip install --quiet --editable .
	touch $@

.venv/installed-dev: .venv/installed
	$(BIN) -m pip install --quiet --editable ".[dev,shap]"
	touch $@

clean:
	rm -rf .venv mi_duck_demo
