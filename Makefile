# One command per task, the same for a person and for CI.
PYTHON ?= python3
TORCH ?= torch==2.13.0
BUNDLE ?= edge_ad/demo/bundle
VENV := .venv
DEMO_VENV := .venv-demo
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow check bench results setup system-packages demo-bundle clean

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

demo: $(DEMO_VENV)/.installed ## the whole line on this machine: cameras' images in, alarms out (no torch)
	$(DEMO_VENV)/bin/edge-ad demo $(ARGS)

test: $(VENV)/.installed ## all tests that take seconds
	$(BIN)/python -m pytest -m "not slow and not gpu" $(ARGS)

test-slow: $(VENV)/.installed ## the tests that take minutes, and those on ../shared
	$(BIN)/python -m pytest -m "slow and not gpu" $(ARGS)

check: $(VENV)/.installed ## formatting, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(VENV)/.installed ## timings, as ratios measured side by side (never asserted)
	$(BIN)/python -m benchmarks.startup --bundle $(BUNDLE)
	$(BIN)/edge-ad bench $(BUNDLE) --json build/bench/bench.json --out build/bench $(ARGS)

results: $(VENV)/.installed ## tables and plots from benchmarks/results, in build/results
	$(BIN)/edge-ad-train results benchmarks/results --out build/results

setup: $(VENV)/.installed ## everything to train, test and develop, in .venv

# torch first and alone: a later, wider requirement is then already satisfied, and no second build is pulled in.
$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet $(TORCH)
	$(BIN)/pip install --quiet -e ".[train,demo,dev,openvino,gpio]"
	@touch $@

$(DEMO_VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(DEMO_VENV)
	$(DEMO_VENV)/bin/pip install --quiet --upgrade pip
	$(DEMO_VENV)/bin/pip install --quiet -e ".[demo]"
	@touch $@

# libgl1 and libglib2.0-0 for OpenCV; the rest is what the tests of the line talk to. Tests without them are skipped.
system-packages: ## what the tests use of Debian or Ubuntu (as root)
	apt-get update -q
	apt-get install -y -q --no-install-recommends libgl1 libglib2.0-0 mosquitto mosquitto-clients openssl systemd \
	  iproute2 ffmpeg python3-gi gir1.2-gst-rtsp-server-1.0 gstreamer1.0-tools gstreamer1.0-plugins-base \
	  gstreamer1.0-plugins-good gstreamer1.0-plugins-bad gstreamer1.0-plugins-ugly gstreamer1.0-libav

demo-bundle: $(VENV)/.installed ## train the bundle of the demo anew (about 25 minutes)
	$(BIN)/python -m benchmarks.demo_bundle --work $(or $(WORK),build/demo)

clean: ## remove what the other targets made
	rm -rf build dist *.egg-info $(VENV) $(DEMO_VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
