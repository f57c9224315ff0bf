# Each target sets itself up: .venv from locked requirements. PYTHON and TORCH_INDEX may be set from outside.
PYTHON ?= python3.11
PIP = .venv/bin/pip --disable-pip-version-check
.PHONY: demo test check bench

demo: .venv/.pipeline
	@.venv/bin/python -m pipeline.demo configs/demo.yaml

test: .venv/.dev
	@.venv/bin/python -m pytest

check: .venv/.dev
	@.venv/bin/ruff check . && .venv/bin/ruff format --check . && .venv/bin/mypy

bench: .venv/.pipeline
	@.venv/bin/python -m benchmarks.sst2_bench

.venv/.torch: requirements/torch.txt
	@$(PYTHON) -m venv .venv
	@$(PIP) install -r requirements/torch.txt $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX))
	@touch $@

.venv/.%: requirements/%.txt .venv/.torch pyproject.toml
	@$(PIP) install -r requirements/$*.txt
	@$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@
