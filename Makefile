# `make help` lists the targets. Those that need .venv make it themselves, the first time and
# whenever pyproject.toml or .ci/constraints.txt change.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DELETE_ON_ERROR:
.SUFFIXES:
.DEFAULT_GOAL := help

PYTHON ?= python3
# Recipes read these from the environment, so that spaces and quotes in them survive.
export PYTHON MANIFEST STORE RUN TARGET WEIGHTS SWEEP CONFIG VIDEOS OUT

BIN := .venv/bin
INSTALLED := .venv/.installed
DEMO := data/demo
DEMO_EXTRACT := --backbone MobileNetV2 --alpha 0.35 --input-size 96 --sampling all --dtype float32
DEMO_TRAIN := --group digit_image --overwrite

NEEDS_extract := MANIFEST STORE
NEEDS_train := MANIFEST STORE RUN TARGET
NEEDS_sweep := MANIFEST STORE SWEEP CONFIG
NEEDS_predict := RUN VIDEOS OUT
NEEDS_report := RUN
EXAMPLE_MANIFEST := videos.csv
EXAMPLE_STORE := store
EXAMPLE_RUN := runs/first
EXAMPLE_TARGET := label
EXAMPLE_SWEEP := sweeps/first
EXAMPLE_CONFIG := sweep.toml
EXAMPLE_VIDEOS := new_videos
EXAMPLE_OUT := predictions.csv

# More workers than this would need memory rather than cores.
PYTEST := $(BIN)/pytest -n auto --maxprocesses 4 --dist loadfile

missing = $(strip \
    $(foreach name,$(NEEDS_$(1)),$(if $(strip $($(name))),,$(name)=$(EXAMPLE_$(name)))))
check = $(if $(call missing,$(1)),$(error make $(1) needs, for example, $(call missing,$(1))))
$(foreach goal,$(MAKECMDGOALS),$(call check,$(goal)))

.PHONY: help install extract train sweep predict report demo test test-fast test-xslow lint format bench lock clean distclean

define HELP
make extract MANIFEST=videos.csv STORE=store     embed the videos into the store, once
make train   MANIFEST=videos.csv STORE=store RUN=runs/first TARGET=label
                                                 train on the store: model, scores, report
make sweep   MANIFEST=videos.csv STORE=store SWEEP=sweeps/first CONFIG=sweep.toml
                                                 search settings; leaderboard, report, winner
make predict RUN=runs/first VIDEOS=new_videos OUT=predictions.csv
                                                 what the run says of new videos
make report  RUN=runs/first                      write the run's report.html again
make demo    [WEIGHTS=file.h5]                   all of it on generated videos, in minutes;
                                                 ImageNet weights where they can be had

make install       only make .venv; the other targets do so by themselves
make test          all but the slowest     make lint       ruff and mypy
make test-fast     without slow ones too   make format     format, and fix what ruff can
make test-xslow    the slowest alone       make bench      run tests/benchmarks/bench_*.py
make lock          renew .ci/constraints.txt
make clean         remove caches and data/demo
make distclean     remove .venv too

ARGS="..."     more flags for extract, train, sweep, predict, report, and tests, such as
               make extract MANIFEST=videos.csv STORE=store ARGS="--backbone ResNet50"
PYTHON=...     the Python (3.11 or newer) that .venv is made with; default: python3.
               To change it later: make distclean, then make PYTHON=python3.12 test
Paths are relative to the folder of this Makefile. Nothing needs to be installed before.
endef
export HELP

help:
	@printf '%s\n' "$$HELP"

install: $(INSTALLED)

extract: $(INSTALLED)
	@$(BIN)/stage1-extract run "$$MANIFEST" "$$STORE" $(ARGS)

train: $(INSTALLED)
	@$(BIN)/stage2-temporal train "$$STORE" "$$MANIFEST" "$$RUN" --target "$$TARGET" $(ARGS)

sweep: $(INSTALLED)
	@$(BIN)/stage2-temporal sweep "$$STORE" "$$MANIFEST" "$$SWEEP" --config "$$CONFIG" $(ARGS)

predict: $(INSTALLED)
	@$(BIN)/stage2-temporal predict "$$RUN" "$$VIDEOS" --out "$$OUT" $(ARGS)

report: $(INSTALLED)
	@$(BIN)/stage2-temporal report "$$RUN" $(ARGS)

demo: $(DEMO)/manifest.csv
	@weights="$${WEIGHTS:-$$($(BIN)/python data/demo_weights.py)}"
	folder="$(DEMO)/$$(basename "$$weights")"
	PS4='> '
	set -x
	$(BIN)/stage1-extract run $(DEMO)/manifest.csv "$$folder/store" \
		--weights "$$weights" $(DEMO_EXTRACT)
	$(BIN)/stage2-temporal train "$$folder/store" $(DEMO)/manifest.csv "$$folder/motion" \
		--target motion --balance oversample $(DEMO_TRAIN)
	$(BIN)/stage2-temporal train "$$folder/store" $(DEMO)/manifest.csv "$$folder/speed" \
		--target speed --balance uniformize $(DEMO_TRAIN)

# New videos make the stores of the old ones wrong, so they go with them.
$(DEMO)/manifest.csv: data/demo.py | $(INSTALLED)
	@rm -rf $(DEMO)
	$(BIN)/python data/demo.py $(DEMO)

test: $(INSTALLED)
	@$(PYTEST) -m "not xslow" $(ARGS)

test-fast: $(INSTALLED)
	@$(PYTEST) -m "not slow and not xslow" $(ARGS)

test-xslow: $(INSTALLED)
	@$(PYTEST) -m xslow $(ARGS)

lint: $(INSTALLED)
	@$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: $(INSTALLED)
	@$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: $(INSTALLED)
	@shopt -s nullglob
	for script in tests/benchmarks/bench_*.py; do
		module="$${script%.py}"
		echo "== $$script"
		$(BIN)/python -m "$${module//\//.}"
	done

clean:
	@rm -rf .hypothesis .mypy_cache .pytest_cache .ruff_cache build dist $(DEMO)
	find . -name .venv -prune -o -name .git -prune -o -name __pycache__ -type d -prune \
		-exec rm -rf {} +

distclean: clean
	@rm -rf .venv *.egg-info

define check_python =
	if ! command -v "$$PYTHON" > /dev/null; then
		echo "PYTHON=$$PYTHON was not found; name an installed one: make PYTHON=python3.12 ..." >&2
		exit 2
	fi
	if ! "$$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
		echo "Python 3.11 or newer is needed, $$PYTHON is $$("$$PYTHON" -V 2>&1);" \
			"name a newer one: make PYTHON=python3.12 ..." >&2
		exit 2
	fi
	if ! "$$PYTHON" -c 'import ensurepip, venv' 2> /dev/null; then
		echo "$$PYTHON cannot make virtual environments (no ensurepip or venv);" \
			"on Debian and Ubuntu: apt install python3-venv" >&2
		exit 2
	fi
endef

# The stamp is written last: an install that failed is tried again.
$(INSTALLED): pyproject.toml .ci/constraints.txt
	@rm -f $@
	$(check_python)
	if ! $(BIN)/python -c '' 2> /dev/null; then
		"$$PYTHON" -m venv --clear .venv
	fi
	echo "Installing into .venv (a minute or two the first time) ..."
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-input \
		-c .ci/constraints.txt -e '.[dev]'
	touch $@

# Its pins must exist for every supported Python, so the oldest one makes them.
lock:
	@$(check_python)
	if ! "$$PYTHON" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))'; then
		echo "make lock needs Python 3.11, $$PYTHON is another: make PYTHON=python3.11 lock" >&2
		exit 2
	fi
	folder="$$(mktemp -d)"
	trap 'rm -rf "$$folder"' EXIT
	"$$PYTHON" -m venv "$$folder"
	pip() { "$$folder/bin/python" -m pip --disable-pip-version-check --no-input "$$@"; }
	pip install --quiet --upgrade setuptools wheel
	pip install --quiet -e '.[dev]'
	pins="$$(pip freeze --all --exclude pip --exclude-editable)"
	cat > .ci/constraints.partial <<-TEXT
		# The releases that everything was tested with, used by the Makefile: pip install -c.
		# Written by \`make lock\`: '.[dev]' in a fresh environment, then pip freeze. Made with Python
		# 3.11, the oldest supported, because its pins exist for the newer ones too.
		$$pins
	TEXT
	mv .ci/constraints.partial .ci/constraints.txt
