# make demo | test | lint | parity | bench | docs: each makes .venv (bench: .venv-bench) and installs
# what it needs, once.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMPS := $(VENV)/stamps
PIP    := $(BIN)/python -m pip install --disable-pip-version-check --quiet
# Processes that share the tests; a file's tests stay together, with what they compile.
WORKERS ?= 2
PYTEST  := $(BIN)/python -m pytest --numprocesses=$(WORKERS) --dist=loadfile
# What make parity compares with.
TORCH       ?= torch==2.13.0
TORCHVISION ?= torchvision==0.28.0
TIMM        ?= timm==1.0.31
KERAS       ?= keras==3.15.1
TENSORFLOW  ?= tensorflow-cpu==2.21.0 $(KERAS)
# What make bench runs, each into benchmarks/results; its peers have an environment of their own.
BENCH        := .venv-bench
BENCH_PIP    := $(BENCH)/bin/python -m pip install --disable-pip-version-check --quiet
BENCHMARKS   ?= import_time lstm startup transfer train_step inference memory overhead convolutions
# Each work that torch.compile gets takes up to a minute more.
BENCH_train_step := --compile resnet50 cnn mlp lstm
BENCH_inference  := --compile resnet50 cnn mlp lstm

.PHONY: demo test lint format parity bench docs digits clean

demo: $(STAMPS)/demo
	rm -rf runs/demo
	$(BIN)/python examples/quickstart_digits.py --run-dir runs/demo
	$(BIN)/python examples/predict_from_checkpoint.py --run-dir runs/demo
	$(BIN)/python examples/digits_transfer/main.py --run-dir runs/demo/transfer

test: $(STAMPS)/test
	$(PYTEST)

lint: $(STAMPS)/lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMPS)/lint
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

parity: $(STAMPS)/parity
	$(PYTEST) --override-ini=addopts= --import-mode=importlib -ra tests/parity

bench: $(BENCH)/stamp
	mkdir -p benchmarks/results
	$(foreach name,$(BENCHMARKS),$(BENCH)/bin/python benchmarks/$(name).py $(BENCH_$(name)) --json benchmarks/results/$(name).json &&) \
	$(BENCH)/bin/python benchmarks/report.py

docs: $(STAMPS)/docs
	$(BIN)/zensical build

# The checkpoint that ships inside the package, by the demo's own recipe.
digits: $(STAMPS)/demo
	$(BIN)/python examples/quickstart_digits.py --run-dir runs/digits --export src/flaxzoo/weights/digits

$(STAMPS):
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "flaxzoo needs Python 3.11 or newer; set PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	mkdir -p $@

$(STAMPS)/demo: pyproject.toml | $(STAMPS)
	$(PIP) -e '.[demo]'
	touch $@

$(STAMPS)/test: pyproject.toml | $(STAMPS)
	$(PIP) -e '.[test]'
	touch $@ $(STAMPS)/demo

$(STAMPS)/lint: pyproject.toml | $(STAMPS)
	$(PIP) -e '.[test,lint]'
	touch $@ $(STAMPS)/test $(STAMPS)/demo

# torchvision's own dependencies name the build of torch that it was made with, not the one here.
$(STAMPS)/parity: $(STAMPS)/test
	$(PIP) $(TORCH)
	$(PIP) pillow pyyaml huggingface_hub safetensors
	$(PIP) $(TENSORFLOW)
	$(PIP) --no-deps $(TORCHVISION) $(TIMM)
	touch $@

# jax-resnet and flaxmodels come with flaxzoo. A peer that can't be installed is a row that says so.
$(BENCH)/stamp: pyproject.toml | $(STAMPS)
	$(PYTHON) -m venv $(BENCH)
	$(BENCH_PIP) -e '.[data]'
	-$(BENCH_PIP) $(TORCH) pyyaml
	-$(BENCH_PIP) $(KERAS)
	-$(BENCH_PIP) --no-deps $(TORCHVISION) $(TIMM)
	touch $@

$(STAMPS)/docs: pyproject.toml | $(STAMPS)
	$(PIP) -e '.[docs]'
	touch $@

clean:
	rm -rf $(VENV) $(BENCH) runs build dist .pytest_cache .ruff_cache .mypy_cache
