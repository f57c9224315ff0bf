# Each target sets itself up: .venv from locked requirements. PYTHON and TORCH_INDEX may be set from outside.
PYTHON ?= python3.11
PIP = .venv/bin/pip --disable-pip-version-check
.PHONY: demo test check bench soak optimum mlserver

demo: .venv/.pipeline
	@.venv/bin/python -m pipeline.demo configs/demo.yaml

test: .venv/.dev .venv/.triton
	@.venv/bin/python -m pytest

check: .venv/.dev
	@.venv/bin/ruff check . && .venv/bin/ruff format --check . && .venv/bin/mypy

optimum: .venv-optimum/.ready  # what users of optimum.onnxruntime have: an older transformers, so apart

mlserver: .venv-mlserver/.ready  # its types and codecs are clients of ours: an older FastAPI and protobuf, so apart

bench: .venv/.pipeline
	@.venv/bin/python -m benchmarks.distill_bench

soak: .venv/.pipeline  # an hour of load on a served bundle: does its memory stay? BUNDLE=FOLDER
	@.venv/bin/python -m benchmarks.serving.soak $(or $(BUNDLE),$(error name a bundle: make soak BUNDLE=FOLDER)) --out soak.json

.venv/.torch: requirements/torch.txt
	@$(PYTHON) -m venv .venv
	@$(PIP) install -r requirements/torch.txt $(if $(TORCH_INDEX),-i $(TORCH_INDEX))
	@touch $@

.venv-optimum/.ready: requirements/torch.txt requirements/optimum.txt
	@$(PYTHON) -m venv .venv-optimum
	@.venv-optimum/bin/pip install -r requirements/torch.txt $(if $(TORCH_INDEX),-i $(TORCH_INDEX)) && .venv-optimum/bin/pip install -r requirements/optimum.txt
	@touch $@

.venv-mlserver/.ready: requirements/mlserver.txt
	@$(PYTHON) -m venv .venv-mlserver && .venv-mlserver/bin/pip install -r requirements/mlserver.txt
	@touch $@

.venv/.triton: requirements/triton.txt .venv/.dev
	@.venv/bin/python -c "import triton" 2>/dev/null || $(PIP) install -r $< || echo "no Triton for this machine: its tests skip"
	@touch $@

.venv/.%: requirements/%.txt .venv/.torch pyproject.toml
	@$(PIP) install -r requirements/$*.txt
	@$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@
