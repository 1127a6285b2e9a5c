# adaptrt: `make help` lists targets and variables.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TASK ?= classification
PRECISION ?= fp16
TARGET ?= auto
GPU ?= sm86,sm89,sm120
MAX_BATCH ?= 32
MAX_TOKENS ?= 8192
OUT ?= $(if $(filter triton serve,$(MAKECMDGOALS)),model_repository,build)
TRITON_VERSION ?= 24.10
TRITON_VENV := .venv-triton
BENCH_SIZE ?= mid

.DEFAULT_GOAL := help
.PHONY: help engine calibrate verify triton serve test check bench bench-build bench-gpu bench-serve gpu-check clean
# A bare checkout on a CUDA image has no virtual environment and needs none for these two.
GPU_PYTHON = $(if $(wildcard $(VENV)/.installed),$(BIN)/python,$(PYTHON))

help: ## This list
	@echo "make engine TASK=classification PRECISION=fp16"
	@echo
	@echo "Targets:"
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  \1|\2/' | awk -F'|' '{printf "%-14s %s\n", $$1, $$2}'
	@echo
	@echo "Variables of make engine (defaults in brackets):"
	@echo "  MODEL         a folder or a hub id [the embedded sample]"
	@echo "  REVISION      a branch, tag or commit of the hub id"
	@echo "  TASK          retrieval.query, retrieval.passage, separation, classification,"
	@echo "                text-matching, base, or all [classification]"
	@echo "  ADAPTER_PATH  a PEFT folder of your own, used under TASK's name"
	@echo "  ADAPTER       merged, switchable (every task, chosen per row), slot [merged]"
	@echo "  INTERFACE     sentence, or official: that of the published ONNX file [sentence]"
	@echo "  HEAD          sentence, or chunks: for late chunking [sentence]"
	@echo "  RANK          of ADAPTER=slot [16]"
	@echo "  PRECISION     fp32, fp16, bf16, int8 [fp16]"
	@echo "  TARGET        tensorrt_rtx, tensorrt, tensorrt10 (to build on a Jetson),"
	@echo "                onnxruntime, auto [auto]"
	@echo "  GPU           architectures for tensorrt_rtx [sm86,sm89,sm120]"
	@echo "  MAX_BATCH     [32]      MAX_TOKENS     [8192]"
	@echo "  PROFILES      short,long: shapes by length, each with its own memory [one for all]"
	@echo "  REFITTABLE    1: engines without weights, for adaptrt refit; needs a GPU"
	@echo "  WORKSPACE     builder memory in GiB [8]"
	@echo "  PARITY_TOKENS longest text of the parity gate [2048]"
	@echo "  OUT           where bundles go [build]"
	@echo "  NAME          the bundle's folder in OUT/model [one that says the choices]"
	@echo "  of INT8 (make calibrate takes them too):"
	@echo "  CALIBRATION_DATA   texts as .txt, .jsonl or .parquet [the project's own]"
	@echo "  CALIBRATION        a calibration.json made before, of the same model, task and texts"
	@echo "  CALIBRATION_TEXTS  how many of them are run [256]"
	@echo "  OBSERVER           min-max, percentile, entropy, mse [min-max]"
	@echo "  INT8_FALLBACK_MAX  share of the GEMMs' work that may stay out of INT8 [0.25]"
	@echo "make verify takes BUNDLE, a bundle's folder; make gpu-check takes WHEELS, a folder of"
	@echo "wheels for what the image lacks, GPU_SIZES [sample,full], GPU_PRECISIONS [fp16,bf16,int8]."
	@echo "make triton takes BUNDLE, one or several folders; OUT [model_repository]; ENCODER: tensorrt,"
	@echo "  onnxruntime, python, auto [auto]; TRITON_VERSION [24.10]; SETTINGS, a TOML file."
	@echo "make serve takes OUT, ADDRESS [127.0.0.1], HTTP_PORT, GRPC_PORT, METRICS_PORT [8000 8001 8002]"
	@echo "  and CACHE, the response cache's bytes [0]."

COMMON = --task "$(TASK)" --max-batch "$(MAX_BATCH)" --max-tokens "$(MAX_TOKENS)" --out "$(OUT)" \
  $(if $(MODEL),--model "$(MODEL)") $(if $(REVISION),--revision "$(REVISION)") \
  $(if $(ADAPTER_PATH),--adapter-path "$(ADAPTER_PATH)") \
  $(if $(ADAPTER),--adapter "$(ADAPTER)") $(if $(INTERFACE),--interface "$(INTERFACE)") \
  $(if $(CALIBRATION_DATA),--calibration-data "$(CALIBRATION_DATA)") \
  $(if $(CALIBRATION),--calibration "$(CALIBRATION)") \
  $(if $(CALIBRATION_TEXTS),--calibration-texts "$(CALIBRATION_TEXTS)") \
  $(if $(OBSERVER),--observer "$(OBSERVER)") \
  $(if $(INT8_FALLBACK_MAX),--int8-fallback-max "$(INT8_FALLBACK_MAX)")

# NAME counts on the command line only: some systems have it in the environment, for the machine.
engine: $(VENV)/.installed ## Build a verified engine bundle
	@$(BIN)/adaptrt engine $(COMMON) --precision "$(PRECISION)" --target "$(TARGET)" \
	  --gpu "$(GPU)" $(if $(HEAD),--head "$(HEAD)") $(if $(RANK),--rank "$(RANK)") \
	  $(if $(PROFILES),--profiles "$(PROFILES)") $(if $(REFITTABLE),--refittable) \
	  $(if $(WORKSPACE),--workspace "$(WORKSPACE)") $(if $(filter command,$(origin NAME)),--name "$(NAME)") \
	  $(if $(PARITY_TOKENS),--parity-tokens "$(PARITY_TOKENS)")

calibrate: $(VENV)/.installed ## Ranges for INT8 from texts (make engine PRECISION=int8 does it too)
	@$(BIN)/adaptrt calibrate $(COMMON)

verify: $(VENV)/.installed ## Re-hash a bundle and run its parity again (BUNDLE=...)
	@$(BIN)/adaptrt verify --bundle "$(BUNDLE)"

triton: $(VENV)/.installed-serve ## Write a Triton model repository (BUNDLE="a b")
	@$(BIN)/adaptrt triton --bundle $(BUNDLE) --out "$(OUT)" --triton-version "$(TRITON_VERSION)" \
	  $(if $(ENCODER),--encoder "$(ENCODER)") $(if $(SETTINGS),--settings "$(SETTINGS)")

serve: $(VENV)/.installed $(TRITON_VENV)/.installed ## Serve the repository on this machine
	@$(BIN)/adaptrt serve --repository "$(OUT)" --environment $(TRITON_VENV) \
	  $(if $(ADDRESS),--address "$(ADDRESS)") $(if $(HTTP_PORT),--http-port "$(HTTP_PORT)") \
	  $(if $(GRPC_PORT),--grpc-port "$(GRPC_PORT)") $(if $(CACHE),--cache "$(CACHE)") \
	  $(if $(METRICS_PORT),--metrics-port "$(METRICS_PORT)")

test: $(VENV)/.installed-dev ## Run the tests
	@$(MAKE) --no-print-directory $(TRITON_VENV)/.installed || \
	  echo "The Triton server could not be installed; its tests are skipped."
	$(BIN)/python -m pytest

check: $(VENV)/.installed-dev ## Lint and type-check
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench-build: $(VENV)/.installed ## Time and memory of building and calibrating a full-size random checkpoint
	$(BIN)/python -m tests.bench.build --out "$(OUT)/bench-build"

bench-serve: $(VENV)/.installed-dev $(TRITON_VENV)/.installed ## Throughput and latency of a served sample
	$(BIN)/python -m tests.bench.serve --out "$(OUT)/bench-serve"

bench: $(VENV)/.installed-bench ## Speed and memory beside PyTorch, a naive export and others (BENCH_SIZE=sample, mid or full)
	$(BIN)/python -m tests.bench.run --size "$(BENCH_SIZE)" --out "$(OUT)/bench" \
	  $(if $(BENCH_ONLY),--only "$(BENCH_ONLY)") $(if $(BENCH_CASES),--cases "$(BENCH_CASES)")

bench-gpu: ## Speed on this GPU beside PyTorch FlashAttention-2
	@$(GPU_PYTHON) -m tests.bench.gpu --out "$(OUT)/bench-gpu"

gpu-check: ## Try, compare and time everything that runs on this GPU (WHEELS=folder)
	@$(GPU_PYTHON) -m tests.gpu.check --out "$(OUT)/gpu-check" $(if $(WHEELS),--wheels "$(WHEELS)") \
	  $(if $(GPU_SIZES),--sizes "$(GPU_SIZES)") $(if $(GPU_PRECISIONS),--precisions "$(GPU_PRECISIONS)")

clean: ## Remove bundles and caches; the virtual environment stays
	rm -rf build .mypy_cache .ruff_cache

$(VENV)/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; name one with PYTHON=python3.11"; exit 4; }
	$(PYTHON) -m venv $(VENV)
	@# The pinned torch goes first: alone, no other package can pull a larger build of it.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$$(sed -n 's/^ *"\(torch==[0-9.]*\)",/\1/p' pyproject.toml)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

$(VENV)/.installed-serve: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[serve]'
	@touch $@

# The server and what its Python models import. Apart from ours: it needs an older NumPy.
$(TRITON_VENV)/.installed: export/triton/models/requirements.txt
	$(PYTHON) -m venv $(TRITON_VENV)
	$(TRITON_VENV)/bin/python -m pip install --quiet --disable-pip-version-check \
	  'nvidia-pytriton==0.7.0' -r $<
	rm -rf $(TRITON_VENV)/backends
	@touch $@

$(VENV)/.installed-bench: $(VENV)/.installed-dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[bench]'
	@touch $@
