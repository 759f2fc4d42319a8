# make demo | test | lint | parity | bench | docs: each makes .venv and installs what it needs, once.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMPS := $(VENV)/stamps
PIP    := $(BIN)/python -m pip install --disable-pip-version-check --quiet
# What make parity compares with.
TORCH       ?= torch==2.13.0
TORCHVISION ?= torchvision==0.28.0
TIMM        ?= timm==1.0.31
TENSORFLOW  ?= tensorflow-cpu==2.21.0 keras==3.15.1

.PHONY: demo test lint format parity bench docs digits clean

demo: $(STAMPS)/demo
	rm -rf runs/demo
	$(BIN)/python examples/quickstart_digits.py --run-dir runs/demo
	$(BIN)/python examples/predict_from_checkpoint.py --run-dir runs/demo
	$(BIN)/python examples/digits_transfer/main.py --run-dir runs/demo/transfer

test: $(STAMPS)/test
	$(BIN)/python -m pytest

lint: $(STAMPS)/lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMPS)/lint
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

parity: $(STAMPS)/parity
	$(BIN)/python -m pytest --override-ini=addopts= --import-mode=importlib -ra tests/parity

bench: $(STAMPS)/parity
	$(BIN)/python benchmarks/import_time.py
	$(BIN)/python benchmarks/lstm.py
	$(BIN)/python benchmarks/startup.py
	$(BIN)/python benchmarks/transfer.py

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

$(STAMPS)/docs: pyproject.toml | $(STAMPS)
	$(PIP) -e '.[docs]'
	touch $@

clean:
	rm -rf $(VENV) runs build dist .pytest_cache .ruff_cache .mypy_cache
