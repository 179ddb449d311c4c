# One command per task, the same for a person and for CI.
PYTHON ?= python3
TORCH ?= torch==2.13.0
TORCHVISION ?= torchvision==0.28.0
BUNDLE ?= edge_ad/demo/bundle
VENV := .venv
DEMO_VENV := .venv-demo
ENGINES_VENV := .venv-engines
PEERS_VENV := .venv-peers
BIN := $(VENV)/bin
# Many tests wait for brokers, cameras and clocks, so they run side by side; those of a file share fixtures and stay
# together. One thread each: processes that share cores and wait for their threads at every step crawl.
PARALLEL ?= -n auto --maxprocesses 4 --dist loadfile

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow test-gpu engines engines-venv check bench results peers peers-venv roofline setup \
  system-packages demo-bundle clean

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

demo: $(DEMO_VENV)/.installed ## the whole line on this machine: cameras' images in, alarms out (no torch)
	$(DEMO_VENV)/bin/edge-ad demo $(ARGS)

test: $(VENV)/.installed ## all tests that take seconds
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow and not gpu" $(PARALLEL) $(ARGS)

test-slow: $(VENV)/.installed ## the tests that take minutes, and those on real data sets
	$(BIN)/python -m pytest -m "slow and not gpu" $(ARGS)

test-gpu: $(VENV)/.installed ## the tests that need an NVIDIA GPU, on a desktop (boards: docs/jetson.md)
	$(BIN)/python -m pytest -m gpu -s $(ARGS)

# What a GPU's engines are made from, as far as that can be shown without one: TensorRT's parser and builder and
# Torch-TensorRT's partitioner on our graphs, and all code of ours between a frame and an engine on a pretended GPU.
engines: $(ENGINES_VENV)/.installed ## TensorRT's parser, builder and partitioner on our graphs, without a GPU
	$(ENGINES_VENV)/bin/python -m pytest -m "not gpu" tests/edge_ad/engines tests/edge_ad/cuda \
	  tests/edge_ad/backends/test_tensorrt.py tests/edge_ad/backends/test_contract.py $(ARGS)

check: $(VENV)/.installed ## formatting, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(VENV)/.installed ## timings, as ratios measured side by side (never asserted)
	$(BIN)/python -m benchmarks.startup --bundle $(BUNDLE)
	$(BIN)/python -m benchmarks.daemon_pace $(BUNDLE)
	$(BIN)/edge-ad bench $(BUNDLE) --json build/bench/bench.json --out build/bench $(ARGS)

results: $(VENV)/.installed ## tables and plots from benchmarks/results, in build/results
	$(BIN)/edge-ad-train results benchmarks/results --out build/results

peers: $(PEERS_VENV)/.installed ## other methods on DATA=set, same images, masks and machine (docs/experiments.md)
	$(PEERS_VENV)/bin/python -m benchmarks.peers --data $(DATA) --results benchmarks/results $(ARGS)

roofline: $(VENV)/.installed ## what GRAPH=bundle|profile should run like on a Jetson (docs/jetson.md)
	$(BIN)/python -m benchmarks.roofline $(or $(GRAPH),edge) $(ARGS)

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

engines-venv: $(ENGINES_VENV)/.installed ## what `engines` needs, in .venv-engines

# The torch_tensorrt built against TensorRT-RTX, whose wheels hold its libraries; it wants an older one, which cannot
# build INT8 convolutions. pycuda has no wheels: it is compiled where CUDA's headers are.
$(ENGINES_VENV)/.installed: pyproject.toml tests/fake_gpu/install_pycuda.sh
	$(PYTHON) -m venv $(ENGINES_VENV)
	$(ENGINES_VENV)/bin/pip install --quiet --upgrade pip
	$(ENGINES_VENV)/bin/pip install --quiet $(TORCH)
	$(ENGINES_VENV)/bin/pip install --quiet -e ".[train]" pytest pytest-timeout hypothesis
	$(ENGINES_VENV)/bin/pip install --quiet tensorrt-rtx==1.7.1.116 dllist packaging psutil
	$(ENGINES_VENV)/bin/pip install --quiet --no-deps torch-tensorrt-rtx==2.13.0
	tests/fake_gpu/install_pycuda.sh $(ENGINES_VENV)/bin/python
	@touch $@

peers-venv: $(PEERS_VENV)/.installed ## what `peers` needs, in .venv-peers

# anomalib without its own OpenCV, which would lie in the same folder as ours; so what it imports is named here.
# torchvision without its requirements: they would bring a second torch.
$(PEERS_VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(PEERS_VENV)
	$(PEERS_VENV)/bin/pip install --quiet --upgrade pip
	$(PEERS_VENV)/bin/pip install --quiet $(TORCH)
	$(PEERS_VENV)/bin/pip install --quiet -e ".[train]" pytest pytest-timeout hypothesis
	$(PEERS_VENV)/bin/pip install --quiet --no-deps $(TORCHVISION) anomalib==2.7.0 timm==1.0.31
	$(PEERS_VENV)/bin/pip install --quiet docstring-parser einops freia huggingface-hub imagecodecs \
	  "jsonargparse[signatures]<4.47" kornia "lightning>=2.6,!=2.6.2,!=2.6.3" omegaconf pandas platformdirs rich \
	  rich-argparse safetensors scikit-image scikit-learn tifffile torchmetrics
	@touch $@

# libgl1 and libglib2.0-0 for OpenCV; the rest is what the tests of the line talk to. Tests without them are skipped.
system-packages: ## what the tests use of Debian or Ubuntu (as root)
	apt-get update -q
	apt-get install -y -q --no-install-recommends libgl1 libglib2.0-0 mosquitto mosquitto-clients openssl systemd \
	  iproute2 ffmpeg python3-gi gir1.2-gst-rtsp-server-1.0 gstreamer1.0-tools gstreamer1.0-plugins-base \
	  gstreamer1.0-plugins-good gstreamer1.0-plugins-bad gstreamer1.0-plugins-ugly gstreamer1.0-libav

demo-bundle: $(VENV)/.installed ## train the bundle of the demo anew (10 minutes of training)
	$(BIN)/python -m benchmarks.demo_bundle --work $(or $(WORK),build/demo)

clean: ## remove what the other targets made
	rm -rf build dist *.egg-info $(VENV) $(DEMO_VENV) $(ENGINES_VENV) $(PEERS_VENV) \
	  .pytest_cache .mypy_cache .ruff_cache .hypothesis
