# The two commands of the README. `uv` is used where there is one, and put into a private venv where there is none.
UV := $(shell command -v uv 2>/dev/null || echo .uv/bin/uv)
export RAY_ENABLE_UV_RUN_RUNTIME_ENV = 0

.PHONY: quickstart test check install
quickstart: install
	$(UV) run rayapp quickstart

test: install
	$(UV) run pytest

check: install
	$(UV) run ruff check .
	$(UV) run ruff format --check .
	$(UV) run mypy
	$(UV) run lint-imports

install: $(UV)
	$(UV) sync

# A stock Debian or Ubuntu refuses `pip install` outside of a venv.
.uv/bin/uv:
	python3 -m venv .uv
	.uv/bin/pip install --quiet uv

# An installed uv is an absolute path, and there is nothing to make.
/%/uv: ;
