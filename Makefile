# `make demo` and `make test` do everything on a fresh machine with Python 3.11 (or newer) and its venv module.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Where torch comes from: its CPU build. For a GPU: make TORCH_INDEX=https://download.pytorch.org/whl/cu129
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
BENCH_OUT ?= bench_out
PLUGIN := plugins/cvat-ui/maskbank
SUDO := $(if $(filter-out 0,$(shell id -u)),sudo)

.PHONY: demo test test-plugin bench clean

demo: $(VENV)/.demo-ready
	$(BIN)/python tools/demo.py --out demo_out

# Several test files at a time, so each of their processes computes on one core.
test: $(VENV)/.test-ready test-plugin
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto --maxprocesses 4 --dist loadfile --durations=15

# Against the function, with its own Python.
test-plugin: $(VENV)/.test-ready $(PLUGIN)/node_modules/.ready
	cd $(PLUGIN) && PYTHON=$(abspath $(BIN)/python) npm test

bench: $(VENV)/.demo-ready
	$(BIN)/python tools/bench.py --out $(BENCH_OUT)

$(VENV)/.torch-ready: requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --no-deps --extra-index-url $(TORCH_INDEX) "$$(grep '^torch==' requirements.txt)"
	touch $@

$(VENV)/.demo-ready: $(VENV)/.torch-ready pyproject.toml
	$(BIN)/pip install -e '.[cli]'
	touch $@

$(VENV)/.test-ready: $(VENV)/.torch-ready pyproject.toml
	$(BIN)/pip install -e '.[test]'
	@command -v shellcheck >/dev/null && command -v redis-server >/dev/null \
		|| { $(SUDO) apt-get update -q && $(SUDO) apt-get install -qy shellcheck redis-server; } \
		|| { echo "The tests need shellcheck and redis-server: install them with your package manager." >&2; exit 1; }
	touch $@

$(PLUGIN)/node_modules/.ready: $(PLUGIN)/package-lock.json
	@missing=; for tool in npm chromium; do command -v $$tool >/dev/null || missing="$$missing $$tool"; done; \
		[ -z "$$missing" ] || { $(SUDO) apt-get update -q && $(SUDO) apt-get install -qy $$missing; } \
		|| { echo "The plugin's tests need npm and chromium: install them with your package manager." >&2; exit 1; }
	@node -e 'process.exit(Number(parseInt(process.versions.node) < 20))' \
		|| { echo "The plugin's tests need Node.js 20 or newer, but this is $$(node --version)." >&2; exit 1; }
	cd $(PLUGIN) && npm ci
	touch $@

clean:
	rm -rf $(VENV) demo_out $(BENCH_OUT) $(PLUGIN)/node_modules
