# adaptrt: `make help` lists targets and variables.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TASK ?= classification
PRECISION ?= fp16
TARGET ?= auto
GPU ?= auto
OUT ?= $(if $(filter triton serve,$(MAKECMDGOALS)),model_repository,build)
TRITON_VERSION ?= 24.10
TRITON_VENV := .venv-triton
NEWEST_VENV := .venv-newest
DEVICE_VENV := .venv-3.10
# As JetPack 6 has it: pyenv's, or the one on the path.
# pyenv has a command python3.10 that only says where the interpreter is, unless it is the chosen one.
PYTHON310 ?= $(firstword $(wildcard $(shell pyenv root 2> /dev/null)/versions/3.10*/bin/python3.10 \
  $(dir $(shell command -v python3.10))../versions/3.10*/bin/python3.10) python3.10)
INTEROP_VENV := .venv-interop
CLIENTS := .venv-clients
CLIENT_NAMES := optimum openvino fastembed onnxruntime-1.20 onnxruntime-newest
RIVALS := .venv-rivals
RAY_VENV := .venv-ray
RIVAL_NAMES := onnxruntime nncf neural-compressor modelopt
PIP_INSTALL := -m pip install --quiet --disable-pip-version-check
BENCH_SIZE ?= mid
PRESET ?= fast

.DEFAULT_GOAL := help
.PHONY: help engine calibrate verify tune eval inspect embed triton serve api test test-device check docs check-newest test-quantised test-proof test-interop test-ray embed-kills bench-embed clients lock figures figures-check sizes plans ladder bench bench-build bench-api bench-gpu bench-outputs bench-serve soak gpu-check verdicts recipes recipe-rivals deep prove proofs prove-full drift drift-report torture clean
# A bare checkout on a CUDA image has no virtual environment and needs none for these two.
GPU_PYTHON = $(if $(wildcard $(VENV)/.installed),$(BIN)/python,$(PYTHON))

help: ## This list
	@echo "make engine TASK=classification PRECISION=fp16"
	@echo
	@echo "Targets:"
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  \1|\2/' | awk -F'|' '{printf "%-14s %s\n", $$1, $$2}'
	@echo
	@echo "Variables of make engine (defaults in brackets); adaptrt COMMAND --help says more:"
	@echo "  MODEL         a folder or a hub id [the embedded sample]"
	@echo "  REVISION      a branch, tag or commit of the hub id"
	@echo "  TASK          retrieval.query, retrieval.passage, separation, classification,"
	@echo "                text-matching, base, or all [classification]"
	@echo "  ADAPTER_PATH  a PEFT folder of your own, used under TASK's name"
	@echo "  ADAPTER       merged, switchable (every task, chosen per row), slot [merged]"
	@echo "  INTERFACE     sentence, or official: that of the published ONNX file [sentence]"
	@echo "  HEAD          sentence, or chunks: for late chunking [sentence]"
	@echo "  LAYOUT        hub (onnx/model.onnx, where sentence-transformers, Optimum and others"
	@echo "                look), flat, auto: hub for merged bundles [auto]"
	@echo "  RANK          of ADAPTER=slot: the widest adapter it takes; q, k, v with different A add up [16]"
	@echo "  PRECISION     fp32, fp16, bf16, int8, fp8 (for sm89 and newer), int8w and int4w (the"
	@echo "                weights alone), auto (of CPUs) [fp16]"
	@echo "  BLOCK         of int4w: how many numbers of a weight share a scale, 32, 64, 128 [32]"
	@echo "  TARGET        tensorrt_rtx, tensorrt, tensorrt10 (to build on a Jetson),"
	@echo "                onnxruntime, openvino, cpu (what suits this CPU), auto [auto]"
	@echo "  REST          of int8 for openvino: what is not quantised, bf16 or fp32 [bf16]"
	@echo "  EMBEDDINGS    the word embeddings' table in int8, int4, or same: as the rest [same]"
	@echo "  GPU           architectures for tensorrt_rtx [auto: sm86,sm89,sm120; of fp8 sm89,sm120]"
	@echo "  VOCABULARY    rows for the tokens of these texts alone: a file, languages (de,fr,en), texts (the"
	@echo "                calibration's) [all tokens]"
	@echo "  VOCABULARY_MIN_COUNT  how often they use a token that is kept [1]"
	@echo "  UNKNOWN       texts with other tokens: error, fallback, replace [error]"
	@echo "  DEVICE        a Jetson: orin-nano, orin-nx, agx-orin, thor, or a smaller module of them"
	@echo "  MAX_BATCH     [32]      MAX_TOKENS     [8192]      with DEVICE the device's"
	@echo "  PROFILES      short,long: shapes by length, each with its own memory [one for all]"
	@echo "  ALLOW_PLAN    rules that engines may break, such as launches [none]"
	@echo "  ATTENTION_ACCUMULATION  of FP16 engines: fp32, fp16 [fp32]"
	@echo "  REFITTABLE    1: engines without weights, for adaptrt refit; needs a GPU"
	@echo "  WORKSPACE     builder memory in GiB [8]"
	@echo "  PARITY_TOKENS longest text of the parity gate [2048]"
	@echo "  OUT           where bundles go [build]"
	@echo "  NAME          the bundle's folder in OUT/model [one that says the choices]"
	@echo "  of INT8, FP8, INT8W and INT4W (make calibrate, for INT8, takes them too):"
	@echo "  CALIBRATION_DATA   texts as .txt, .jsonl, .parquet or .arrow, or a dataset's folder [the project's own]"
	@echo "  CALIBRATION_COLUMN the column, or JSON key, of its texts [text]"
	@echo "  CALIBRATION        a calibration.json made before, of the same model and task"
	@echo "  CALIBRATION_TEXTS  how many of them are run [256]"
	@echo "  OBSERVER           of INT8 and FP8: min-max, percentile, entropy, mse [min-max]"
	@echo "  INT8_FALLBACK_MAX  share of the GEMMs' work that may leave the precision [0.25]"
	@echo "make calibrate takes MERGE=a,b, calibrations (files or bundles) that become one, and COMPARE=a,b:"
	@echo "  how two differ; COMPARE=a with CALIBRATION_DATA: whether it fits those texts; JSON=1."
	@echo "make verify takes BUNDLE, a bundle's folder."
	@echo "make prove takes BUNDLE [the sample's switchable FP16]; REFERENCE, the checkpoint, and its REVISION;"
	@echo "  ADAPTER_PATH, where it was built with one; MAX_TOKENS, the longest text [the bundle's]; FRESH=1; JSON=1."
	@echo "make tune takes BUNDLE, a bundle's folder; TEXTS, a file of texts like yours [the project's own];"
	@echo "  MAX_TEXTS [64], ROUNDS [3], MINUTES [10]; THREADS=1: fewer threads too; FORGET=1."
	@echo "make eval takes BUNDLE, one or several folders [FP16 and INT8 of the sample]; PRESET: fast, release"
	@echo "  [fast]; TASKS, names of MTEB's tasks; REFERENCE, the checkpoint; REVISION of it; DIMENSIONS;"
	@echo "  OUTPUT_TYPE [float32]; PREFIX=0; RUNTIME [that of the target]; GATE=1; JSON=1."
	@echo "make inspect takes BUNDLE; GPU, one architecture [all that differ]; BATCH [8] and TOKENS [512] of"
	@echo "  the call that is counted; JSON=1; HTML, a file to write a page to; AGAINST, another bundle:"
	@echo "  where this one is predicted to be faster."
	@echo "make drift takes BUNDLE [the sample with every task, in FP16]; REFERENCE, its checkpoint; REVISION; TASK;"
	@echo "  TEXT or TEXTS, a file of them [the project's own]; LENGTHS [8,32,128,512]; JSON=1; HTML, a file to"
	@echo "  write a page with heat maps to."
	@echo "make embed takes INPUT, files of texts; BUNDLE [the sample with every task]; OUT, a folder; COLUMN"
	@echo "  [text], ID_COLUMN, KEEP=a,b; TASK, DIMENSIONS, OUTPUT_TYPE [float32]; CHUNK_TOKENS or SENTENCES for"
	@echo "  late chunking; ON_ERROR: stop, skip [stop]; WORKERS [1], THREADS; DRY_RUN=1; ENGINE=ray with RAY_ADDRESS,"
	@echo "  ACTORS, CPUS_PER_ACTOR, GPUS_PER_ACTOR; adaptrt embed --help says more."
	@echo "make triton takes BUNDLE, one or several folders; OUT [model_repository]; ENCODER: tensorrt,"
	@echo "  onnxruntime, openvino, python, auto [auto]; TRITON_VERSION [24.10]; SETTINGS, a TOML file."
	@echo "make serve takes OUT, ADDRESS [127.0.0.1], HTTP_PORT, GRPC_PORT, METRICS_PORT [8000 8001 8002]"
	@echo "  and CACHE, the response cache's bytes [0]."
	@echo "make api takes BUNDLE, one or several folders [the sample with every task and late chunking, built"
	@echo "  first]; HOST [127.0.0.1], PORT [8080], DEFAULT_TASK [base],"
	@echo "  API_KEYS, a file of keys; WORKERS, processes [0]; TRITON, a server's URL; adaptrt api --help says more."
	@echo "make gpu-check takes WHEELS, a folder of wheels for what the image lacks, GPU_SIZES"
	@echo "  [sample,full] and GPU_PRECISIONS [fp16,bf16,int8]."
	@echo "make bench takes BENCH_SIZE: sample, mid, full [mid]; BENCH_ONLY, contenders, and BENCH_CASES,"
	@echo "  such as 1x512, both separated by commas [all]."
	@echo "make embed-kills takes KILLS [200] and KILLED_TEXTS [5000]; make bench-embed EMBED_SCALE, a share of"
	@echo "  its texts [1]."
	@echo "make torture takes ONLY, names of trials [all]; SEED [22]; KILLS [200]; MUTATIONS [12000];"
	@echo "  MINUTES, after which no trial is begun [240]."
	@echo "make plans takes PLAN_SIZES [sample,full]; make deep DESCRIPTIONS, a folder of Translation-*.bz2 files."
	@echo "make lock takes UPGRADE=1: the newest versions that pyproject.toml allows."
	@echo "Every adaptrt command: QUIET=1, nothing but warnings and errors on standard error;"
	@echo "  VERBOSE=1, short stages too, and how things are run; ADAPTRT_DEBUG=1: tracebacks."
	@echo "Every target: PYTHON, which makes the environments [python3]; PYTHON310, that of make test-device."

ADAPTRT = $(BIN)/adaptrt $(if $(QUIET),--quiet) $(if $(VERBOSE),--verbose)
COMMON = --task "$(TASK)" --out "$(OUT)" \
  $(if $(MAX_BATCH),--max-batch "$(MAX_BATCH)") $(if $(MAX_TOKENS),--max-tokens "$(MAX_TOKENS)") \
  $(if $(MODEL),--model "$(MODEL)") $(if $(REVISION),--revision "$(REVISION)") \
  $(if $(ADAPTER_PATH),--adapter-path "$(ADAPTER_PATH)") \
  $(if $(ADAPTER),--adapter "$(ADAPTER)") $(if $(INTERFACE),--interface "$(INTERFACE)") \
  $(if $(CALIBRATION_DATA),--calibration-data "$(CALIBRATION_DATA)") \
  $(if $(CALIBRATION_COLUMN),--calibration-column "$(CALIBRATION_COLUMN)") \
  $(if $(CALIBRATION),--calibration "$(CALIBRATION)") \
  $(if $(CALIBRATION_TEXTS),--calibration-texts "$(CALIBRATION_TEXTS)") \
  $(if $(OBSERVER),--observer "$(OBSERVER)") \
  $(if $(INT8_FALLBACK_MAX),--int8-fallback-max "$(INT8_FALLBACK_MAX)")

# NAME counts on the command line only: some systems have it in the environment, for the machine.
engine: $(VENV)/.installed ## Build a verified engine bundle
	@$(ADAPTRT) engine $(COMMON) --precision "$(PRECISION)" --target "$(TARGET)" \
	  --gpu "$(GPU)" $(if $(HEAD),--head "$(HEAD)") $(if $(RANK),--rank "$(RANK)") \
	  $(if $(LAYOUT),--layout "$(LAYOUT)") $(if $(REST),--rest "$(REST)") \
	  $(if $(BLOCK),--block "$(BLOCK)") $(if $(EMBEDDINGS),--embeddings "$(EMBEDDINGS)") \
  $(if $(VOCABULARY),--vocabulary "$(VOCABULARY)") $(if $(UNKNOWN),--unknown "$(UNKNOWN)") \
  $(if $(VOCABULARY_MIN_COUNT),--vocabulary-min-count "$(VOCABULARY_MIN_COUNT)") \
	  $(if $(DEVICE),--device "$(DEVICE)") $(if $(PROFILES),--profiles "$(PROFILES)") $(if $(ALLOW_PLAN),--allow-plan "$(ALLOW_PLAN)") \
	  $(if $(REFITTABLE),--refittable) \
	  $(if $(ATTENTION_ACCUMULATION),--attention-accumulation "$(ATTENTION_ACCUMULATION)") \
	  $(if $(WORKSPACE),--workspace "$(WORKSPACE)") $(if $(filter command,$(origin NAME)),--name "$(NAME)") \
	  $(if $(PARITY_TOKENS),--parity-tokens "$(PARITY_TOKENS)")

calibrate: $(VENV)/.installed ## Ranges for INT8 from texts (make engine PRECISION=int8 does it too)
	@$(ADAPTRT) calibrate $(COMMON) $(if $(MERGE),--merge "$(MERGE)") \
	  $(if $(COMPARE),--compare "$(COMPARE)" $(if $(JSON),--json))

verify: $(VENV)/.installed ## Re-hash a bundle and run its parity again (BUNDLE=...)
	@$(ADAPTRT) verify --bundle "$(BUNDLE)"

# Without BUNDLE, the sample's is built and proved.
PROVED = $(or $(patsubst %/,%,$(BUNDLE)),$(OUT)/sample/switchable-fp16-onnxruntime)

prove: $(VENV)/.installed $(if $(BUNDLE),,$(PROVED)/manifest.json) ## Evidence that a bundle is as good as its checkpoint, as a page (BUNDLE=...)
	@$(ADAPTRT) prove --bundle "$(PROVED)" --out "$(OUT)/proof/$(notdir $(PROVED))" \
	  $(if $(REFERENCE),--reference "$(REFERENCE)") $(if $(REVISION),--revision "$(REVISION)") \
	  $(if $(ADAPTER_PATH),--adapter-path "$(ADAPTER_PATH)") \
	  $(if $(MAX_TOKENS),--max-tokens "$(MAX_TOKENS)") $(if $(FRESH),--fresh) $(if $(JSON),--json)

tune: $(VENV)/.installed ## Time what can run a bundle here, and keep the fastest (BUNDLE=...)
	@$(ADAPTRT) tune --bundle "$(BUNDLE)" $(if $(TEXTS),--texts "$(TEXTS)") \
	  $(if $(MAX_TEXTS),--max-texts "$(MAX_TEXTS)") $(if $(ROUNDS),--rounds "$(ROUNDS)") \
	  $(if $(MINUTES),--minutes "$(MINUTES)") $(if $(THREADS),--threads) $(if $(FORGET),--forget)

# Without BUNDLE, what the sample's two bundles lack is built.
EVALUATED = $(or $(BUNDLE),$(addprefix $(OUT)/sample/switchable-,fp16-onnxruntime int8-onnxruntime))

eval: $(VENV)/.installed-eval $(if $(BUNDLE),,$(addsuffix /manifest.json,$(EVALUATED))) ## Score bundles with MTEB beside their checkpoint (BUNDLE="a b")
	@$(ADAPTRT) eval $(foreach bundle,$(EVALUATED),--bundle "$(bundle)") --out "$(OUT)/eval" \
	  --preset "$(PRESET)" $(if $(TASKS),--tasks "$(TASKS)") $(if $(REFERENCE),--reference "$(REFERENCE)") \
	  $(if $(REVISION),--revision "$(REVISION)") $(if $(DIMENSIONS),--dimensions "$(DIMENSIONS)") \
	  $(if $(OUTPUT_TYPE),--output-type "$(OUTPUT_TYPE)") $(if $(filter 0,$(PREFIX)),--no-prefix) \
	  $(if $(RUNTIME),--runtime "$(RUNTIME)") $(if $(GATE),--gate) $(if $(JSON),--json)

$(OUT)/sample/switchable-%-onnxruntime/manifest.json: | $(VENV)/.installed
	@$(ADAPTRT) engine --adapter switchable --precision "$*" --target onnxruntime --out "$(OUT)"

$(OUT)/sample/switchable-chunks-%-onnxruntime/manifest.json: | $(VENV)/.installed
	@$(ADAPTRT) engine --adapter switchable --head chunks --precision "$*" --target onnxruntime --out "$(OUT)"

ifneq ($(OUT),build)
build/sample/switchable-fp32-onnxruntime/manifest.json: | $(VENV)/.installed
	@$(ADAPTRT) engine --adapter switchable --precision fp32 --target onnxruntime --out build
endif

$(OUT)/deep/switchable-%-onnxruntime/manifest.json: | $(VENV)/.installed
	@$(ADAPTRT) engine --model tests/data/deep --adapter switchable --precision "$*" --target onnxruntime --out "$(OUT)"

inspect: $(VENV)/.installed ## Show what a bundle's engines execute (BUNDLE=...)
	@$(ADAPTRT) inspect --bundle "$(BUNDLE)" $(if $(filter command,$(origin GPU)),--gpu "$(GPU)") \
	  $(if $(BATCH),--batch "$(BATCH)") $(if $(TOKENS),--tokens "$(TOKENS)") $(if $(JSON),--json) \
	  $(if $(AGAINST),--against "$(AGAINST)") \
	  $(if $(HTML),--html "$(HTML)")

# Without BUNDLE, the sample's with every task is built first. TASK counts on the command line only.
DRIFTED = $(or $(BUNDLE),$(OUT)/sample/switchable-fp16-onnxruntime)

drift: $(VENV)/.installed $(if $(BUNDLE),,$(DRIFTED)/manifest.json) ## Where inside the network a bundle departs from its checkpoint (BUNDLE=...)
	@$(ADAPTRT) drift --bundle "$(DRIFTED)" $(if $(REFERENCE),--reference "$(REFERENCE)") \
	  $(if $(REVISION),--revision "$(REVISION)") $(if $(filter command,$(origin TASK)),--task "$(TASK)") \
	  $(if $(TEXT),--text "$(TEXT)") $(if $(TEXTS),--file "$(TEXTS)") \
	  $(if $(LENGTHS),--lengths "$(LENGTHS)") $(if $(JSON),--json) $(if $(HTML),--html "$(HTML)")

$(OUT)/sample/classification-%-onnxruntime/manifest.json: | $(VENV)/.installed
	@$(ADAPTRT) engine --precision "$*" --target onnxruntime --out "$(OUT)"

# With engines, whose graphs are looked into.
$(OUT)/sample/classification-fp16/manifest.json: | $(VENV)/.installed
	@$(ADAPTRT) engine --precision fp16 --out "$(OUT)"

$(OUT)/sample/switchable-fp16/manifest.json: | $(VENV)/.installed
	@$(ADAPTRT) engine --adapter switchable --precision fp16 --out "$(OUT)"

DRIFT_HEALTHY = $(addprefix $(OUT)/sample/,switchable-fp16 classification-bf16-onnxruntime)
DRIFT_PLANTED = $(addprefix $(OUT)/sample/classification-,fp32-onnxruntime fp16 int8-onnxruntime)

drift-report: $(VENV)/.installed-dev $(addsuffix /manifest.json,$(DRIFT_HEALTHY) $(DRIFT_PLANTED)) ## What drift finds in bundles of the sample, and how small a defect may be (about ten minutes)
	$(BIN)/python -m tests.bench.drift $(addprefix --bundle ,$(DRIFT_HEALTHY)) \
	  $(addprefix --planted ,$(DRIFT_PLANTED))
	$(BIN)/python -m tests.bench.figures

# OUT, TASK and ENGINE count on the command line only: the first two have defaults that are others'.
EMBEDS = $(or $(BUNDLE),build/sample/switchable-fp32-onnxruntime)
ON_RAY = $(filter ray,$(if $(filter command,$(origin ENGINE)),$(ENGINE)))

embed: $(if $(ON_RAY),$(RAY_VENV)/.installed,$(VENV)/.installed-embed) $(if $(BUNDLE),,$(EMBEDS)/manifest.json) ## A corpus into Parquet files of vectors (INPUT=... BUNDLE=... OUT=folder)
	@$(if $(ON_RAY),$(subst $(BIN),$(RAY_VENV)/bin,$(ADAPTRT)),$(ADAPTRT)) embed "$(INPUT)" --bundle "$(EMBEDS)" \
	  --out "$(if $(filter command,$(origin OUT)),$(OUT),build/embedded)" \
	  $(if $(filter command,$(origin TASK)),--task "$(TASK)",$(if $(BUNDLE),,--task base)) \
	  $(if $(COLUMN),--column "$(COLUMN)") $(if $(ID_COLUMN),--id-column "$(ID_COLUMN)") \
	  $(if $(KEEP),--keep "$(KEEP)") $(if $(DIMENSIONS),--dimensions "$(DIMENSIONS)") \
	  $(if $(OUTPUT_TYPE),--output-type "$(OUTPUT_TYPE)") $(if $(ON_ERROR),--on-error "$(ON_ERROR)") \
	  $(if $(CHUNK_TOKENS),--late-chunking --chunk-tokens "$(CHUNK_TOKENS)") \
	  $(if $(SENTENCES),--late-chunking --sentences "$(SENTENCES)") \
	  $(if $(WORKERS),--workers "$(WORKERS)") $(if $(THREADS),--threads "$(THREADS)") $(if $(DRY_RUN),--dry-run) \
	  $(if $(filter command,$(origin ENGINE)),--engine "$(ENGINE)") \
	  $(if $(RAY_ADDRESS),--ray-address "$(RAY_ADDRESS)") $(if $(ACTORS),--actors "$(ACTORS)") \
	  $(if $(CPUS_PER_ACTOR),--cpus-per-actor "$(CPUS_PER_ACTOR)") \
	  $(if $(GPUS_PER_ACTOR),--gpus-per-actor "$(GPUS_PER_ACTOR)")

triton: $(VENV)/.installed-serve ## Write a Triton model repository (BUNDLE="a b")
	@$(ADAPTRT) triton --bundle $(BUNDLE) --out "$(OUT)" --triton-version "$(TRITON_VERSION)" \
	  $(if $(ENCODER),--encoder "$(ENCODER)") $(if $(SETTINGS),--settings "$(SETTINGS)")

serve: $(VENV)/.installed $(TRITON_VENV)/.installed ## Serve the repository on this machine
	@$(ADAPTRT) serve --repository "$(OUT)" --environment $(TRITON_VENV) \
	  $(if $(ADDRESS),--address "$(ADDRESS)") $(if $(HTTP_PORT),--http-port "$(HTTP_PORT)") \
	  $(if $(GRPC_PORT),--grpc-port "$(GRPC_PORT)") $(if $(CACHE),--cache "$(CACHE)") \
	  $(if $(METRICS_PORT),--metrics-port "$(METRICS_PORT)")

# Without BUNDLE, the sample with every task and late chunking is built and served.
SERVED = $(or $(BUNDLE),$(OUT)/sample/switchable-chunks-fp16-onnxruntime)

# HOST and PORT count on the command line only: some systems have them in the environment.
api: $(VENV)/.installed-api $(if $(BUNDLE),,$(addsuffix /manifest.json,$(SERVED))) ## Serve bundles over HTTP, for Jina's and OpenAI's clients (BUNDLE="a b")
	@$(ADAPTRT) api $(foreach bundle,$(SERVED),--bundle "$(bundle)") \
	  $(if $(filter command,$(origin HOST)),--host "$(HOST)") \
	  $(if $(filter command,$(origin PORT)),--port "$(PORT)") \
	  $(if $(DEFAULT_TASK),--default-task "$(DEFAULT_TASK)") $(if $(API_KEYS),--api-key-file "$(API_KEYS)") \
	  $(if $(WORKERS),--workers "$(WORKERS)") $(if $(TRITON),--triton "$(TRITON)")

test: $(VENV)/.installed-dev test-device ## Run the tests (about fifteen minutes on two cores)
	@$(MAKE) --no-print-directory $(TRITON_VENV)/.installed || \
	  echo "The Triton server could not be installed; its tests are skipped."
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

test-device: $(DEVICE_VENV)/.installed ## What runs on a Jetson, on Python 3.10 and against TensorRT 10.3's names (half a minute)
	$(DEVICE_VENV)/bin/python -m tests.python310

test-quantised: $(VENV)/.installed-dev ## INT8 and FP8 on two trained checkpoints, judged as users' builds are (about seven minutes)
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile tests/quantised

test-proof: $(VENV)/.installed-dev ## What proves and torments the tool: prove, drift, torture, on small checkpoints (a few minutes)
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile tests/proof

# SEED and ONLY count on the command line only.
torture: $(VENV)/.installed-dev ## What machines and people do to programs: kills, full disks, limits, forks (an hour or more)
	$(if $(filter command,$(origin ONLY)),,$(BIN)/python -m tests.torture.mutations --out "$(OUT)/torture" --jobs 2 \
	  $(if $(filter command,$(origin SEED)),--seed "$(SEED)") $(if $(MUTATIONS),--count "$(MUTATIONS)") $(if $(MINUTES),--minutes "$(MINUTES)"))
	$(BIN)/python -m tests.torture --out "$(OUT)/torture" $(if $(filter command,$(origin ONLY)),--only "$(ONLY)") \
	  $(if $(filter command,$(origin SEED)),--seed "$(SEED)") $(if $(KILLS),--kills "$(KILLS)") $(if $(MINUTES),--minutes "$(MINUTES)")

embed-kills: $(VENV)/.installed-dev $(EMBEDS)/manifest.json ## adaptrt embed killed 200 times, its bytes compared (half an hour)
	$(BIN)/python -m tests.bench.kills --bundle $(EMBEDS) --task classification --out "$(OUT)/embed-kills" \
	  $(if $(KILLS),--kills "$(KILLS)") $(if $(KILLED_TEXTS),--texts "$(KILLED_TEXTS)")

# Apart from ours: Ray brings much that nothing else needs. Without tests/conftest.py, which builds.
test-ray: $(RAY_VENV)/.installed $(EMBEDS)/manifest.json ## adaptrt embed on Ray, on two nodes of this machine too (about three minutes)
	ADAPTRT_BUNDLE=$(EMBEDS) $(RAY_VENV)/bin/python -m pytest -q -c /dev/null --rootdir . \
	  --confcutdir tests/ray -p no:cacheprovider tests/ray

check: $(VENV)/.installed-dev docs figures-check ## Lint, type-check, check figures, and build the documentation strictly
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy --python-version 3.10 --package runtimes
	$(BIN)/yamllint --strict --config-file deploy/.yamllint.yaml deploy
	$(BIN)/hadolint deploy/Dockerfile

# Without its banner about a next version of MkDocs.
docs: $(VENV)/.installed-docs ## The documentation as a site, in build/site
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "build/site/index.html"

bench-build: $(VENV)/.installed ## Time and memory of building and calibrating a full-size random checkpoint
	$(BIN)/python -m tests.bench.build --out "$(OUT)/bench-build"

bench-serve: $(VENV)/.installed-dev $(TRITON_VENV)/.installed ## Throughput and latency of a served sample
	$(BIN)/python -m tests.bench.serve --out "$(OUT)/bench-serve"

bench-api: $(VENV)/.installed-dev ## Load on the HTTP server, beside the embedder and Triton, and its faults (about ten minutes)
	$(BIN)/python -m tests.bench.api --out "$(OUT)/bench-api" $(if $(BUNDLE),--bundle "$(BUNDLE)") \
	  $(if $(BENCH_ONLY),--only "$(BENCH_ONLY)") $(if $(BENCH_ROUNDS),--rounds "$(BENCH_ROUNDS)")

soak: $(VENV)/.installed-dev ## Resident memory over 5,000 calls of mixed shapes (about two minutes)
	$(BIN)/python -m tests.bench.soak --out "$(OUT)/soak"

bench-embed: $(VENV)/.installed-dev $(RAY_VENV)/.installed $(EMBEDS)/manifest.json ## Throughput and memory of adaptrt embed beside Embedder.encode (EMBED_SCALE=share)
	$(BIN)/python -m tests.bench.embed --bundle $(EMBEDS) --ray $(RAY_VENV)/bin/python --out "$(OUT)/bench-embed" \
	  $(if $(EMBED_SCALE),--scale "$(EMBED_SCALE)")

bench-outputs: $(VENV)/.installed ## Retrieval by length and type of vectors, on the sample
	$(BIN)/python -m tests.bench.outputs --out "$(OUT)/bench-outputs"
	$(BIN)/python -m tests.bench.figures

TRAINED = $(foreach model,sample deep,$(OUT)/$(model)/switchable-fp32-onnxruntime)

PROOFS = fp16 int8 chunks-fp16

proofs: $(PROOFS:%=$(OUT)/sample/switchable-%-onnxruntime/manifest.json) ## Prove the sample in FP16, INT8 and with late chunking, and keep it for the documents (about ten minutes)
	@for name in $(PROOFS); do $(ADAPTRT) prove --bundle "$(OUT)/sample/switchable-$$name-onnxruntime" \
	  --out "$(OUT)/proof/switchable-$$name-onnxruntime" || exit; $(BIN)/python -m tests.bench.proof \
	  "$(OUT)/proof/switchable-$$name-onnxruntime/proof.json" "sample-$$name" || exit; done
	$(BIN)/python -m tests.bench.figures

FULL = $(OUT)/full-size-random

$(FULL)/model.safetensors: | $(VENV)/.installed
	$(BIN)/python -m tests.zoo "$(FULL)" --size full

$(FULL)/classification-fp32-onnxruntime/manifest.json: | $(FULL)/model.safetensors
	@$(ADAPTRT) engine --model "$(FULL)" --precision fp32 --target onnxruntime --out "$(OUT)"

prove-full: $(FULL)/classification-fp32-onnxruntime/manifest.json ## Prove a random checkpoint of the real model's size in FP32 to 8192 tokens (half an hour, 9 GB of disk)
	@$(ADAPTRT) prove --bundle "$(<D)" --reference "$(FULL)" --out "$(OUT)/proof/full-fp32" \
	  $(if $(MAX_TOKENS),--max-tokens "$(MAX_TOKENS)")
	$(BIN)/python -m tests.bench.proof "$(OUT)/proof/full-fp32/proof.json" full-fp32
	$(BIN)/python -m tests.bench.figures

verdicts: $(addsuffix /manifest.json,$(TRAINED)) ## How often verdicts on quality are right, by simulation
	$(BIN)/python -m tests.bench.operating $(addprefix --bundle ,$(TRAINED)) --out "$(OUT)/verdicts"
	$(BIN)/python -m tests.bench.controls --out "$(OUT)/controls"

recipes: $(VENV)/.installed-dev ## Recipes of quantisation on two trained checkpoints (about 20 minutes)
	$(BIN)/python -m tests.bench.recipes --out "$(OUT)/recipes"

recipe-rivals: $(VENV)/.installed-dev $(RIVAL_NAMES:%=$(RIVALS)/%/.installed) ## What other libraries make of the two checkpoints, in environments of their own (about 40 minutes)
	$(BIN)/python -m tests.bench.recipe_rivals --out "$(OUT)/recipes"

deep: $(VENV)/.installed-dev ## Train the tests' second checkpoint anew (DESCRIPTIONS=folder; about half an hour)
	$(BIN)/python -m tests.bench.train_deep "$(DESCRIPTIONS)" tests/data/deep

bench: $(VENV)/.installed-bench ## Speed and memory beside PyTorch, OpenVINO, a naive export and others (BENCH_SIZE=sample, mid or full; about twenty minutes)
	$(BIN)/python -m tests.bench.run --size "$(BENCH_SIZE)" --out "$(OUT)/bench" \
	  $(if $(BENCH_ONLY),--only "$(BENCH_ONLY)") $(if $(BENCH_CASES),--cases "$(BENCH_CASES)") \
	  $(if $(BENCH_ROUNDS),--rounds "$(BENCH_ROUNDS)") $(if $(BENCH_TEXTS),--corpus-texts "$(BENCH_TEXTS)")

figures: $(VENV)/.installed-bench ## Write the documents' figures, tables and pictures anew from the committed reports
	$(BIN)/python -m tests.bench.figures
	$(BIN)/python -m tests.bench.plots

figures-check: $(VENV)/.installed ## Find figures in documents that are not what their JSON says, or have none
	@$(BIN)/python -m tests.bench.figures --check

sizes: $(VENV)/.installed $(TRITON_VENV)/.installed ## What installs take on the disk
	$(BIN)/python -m tests.bench.sizes --triton $(TRITON_VENV)
	$(BIN)/python -m tests.bench.figures

plans: $(VENV)/.installed ## What every precision's engines execute, and predicted times: builds them, without a GPU
	$(BIN)/python -m tests.bench.plans --out "$(OUT)/plans" $(if $(PLAN_SIZES),--sizes "$(PLAN_SIZES)")
	$(BIN)/python -m tests.bench.figures

ladder: $(VENV)/.installed ## What each step towards a smaller model saves and costs (about half an hour; no GPU)
	$(BIN)/python -m tests.bench.ladder --out "$(OUT)/ladder"
	$(BIN)/python -m tests.bench.figures

bench-gpu: ## Speed on this GPU beside PyTorch FlashAttention-2
	@$(GPU_PYTHON) -m tests.bench.gpu --out "$(OUT)/bench-gpu"

gpu-check: ## Try, compare and time everything that runs on this GPU (WHEELS=folder)
	@$(GPU_PYTHON) -m tests.gpu.check --out "$(OUT)/gpu-check" $(if $(WHEELS),--wheels "$(WHEELS)") \
	  $(if $(GPU_SIZES),--sizes "$(GPU_SIZES)") $(if $(GPU_PRECISIONS),--precisions "$(GPU_PRECISIONS)")

clean: ## Remove bundles and caches; the virtual environment stays
	rm -rf build .mypy_cache .ruff_cache

# Everything is installed from lock files: the same versions today and in a year. base.txt is what
# building needs; run.txt, what a device that only runs bundles needs; server.txt, what
# deploy/Dockerfile installs.
$(VENV)/.installed: locks/base.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; name one with PYTHON=python3.11"; exit 4; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python $(PIP_INSTALL) -r $<
	$(BIN)/python $(PIP_INSTALL) --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.installed-%: locks/%.txt $(VENV)/.installed
	$(BIN)/python $(PIP_INSTALL) -r $<
	@touch $@

# The server and what its Python models import. Apart from ours: it needs an older NumPy, which
# has no build for Python 3.13.
$(TRITON_VENV)/.installed: locks/triton.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' || \
	  { echo "The server needs Python 3.11 or 3.12; name one with PYTHON=python3.12"; exit 4; }
	$(PYTHON) -m venv $(TRITON_VENV)
	$(TRITON_VENV)/bin/python $(PIP_INSTALL) -r $<
	rm -rf $(TRITON_VENV)/backends
	@touch $@

# What a Jetson has: the light runtime's packages on Python 3.10, and the tests' own.
$(DEVICE_VENV)/.installed: locks/python310.txt
	@"$(PYTHON310)" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 10))' || \
	  { echo "Python 3.10 is needed, which JetPack 6 has; name one with PYTHON310=python3.10"; exit 4; }
	rm -rf $(DEVICE_VENV)
	"$(PYTHON310)" -m venv $(DEVICE_VENV)
	$(DEVICE_VENV)/bin/python $(PIP_INSTALL) -r $<
	@touch $@

# Other people's programs; some of them want other versions than ours.
$(INTEROP_VENV)/.installed: locks/interop.txt pyproject.toml
	$(PYTHON) -m venv $(INTEROP_VENV)
	$(INTEROP_VENV)/bin/python $(PIP_INSTALL) -r $<
	$(INTEROP_VENV)/bin/python $(PIP_INSTALL) --no-deps --no-build-isolation --editable .
	@touch $@

$(RAY_VENV)/.installed: locks/ray.txt pyproject.toml
	$(PYTHON) -m venv $(RAY_VENV)
	$(RAY_VENV)/bin/python $(PIP_INSTALL) -r $<
	$(RAY_VENV)/bin/python $(PIP_INSTALL) --no-deps --no-build-isolation --editable .
	@touch $@

# One environment for each client that wants versions of its own. Without torchvision, which
# Optimum Intel asks for: it is for torch's CUDA build, and breaks transformers beside the CPU build.
$(CLIENTS)/%/.installed: locks/clients/%.txt
	rm -rf $(@D)
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python $(PIP_INSTALL) --no-deps -r $<
	@touch $@

# Libraries that quantise, beside our recipes. ModelOpt without what torch's CUDA build needs.
$(RIVALS)/%/.installed: locks/rivals/%.txt
	rm -rf $(@D)
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python $(PIP_INSTALL) --no-deps -r $<
	@touch $@

$(CLIENTS)/transformers.js/.installed: locks/clients/transformers.js/package-lock.json
	@command -v npm > /dev/null || { echo "npm is not installed"; exit 4; }
	rm -rf $(@D)
	@mkdir -p $(@D)
	cp $(<D)/package.json $< $(@D)
	cd $(@D) && npm ci --ignore-scripts --no-audit --no-fund --loglevel error
	@touch $@

# dev.txt is resolved first and constrains the others, so that they can be installed over each other.
COMPILE = $(BIN)/uv pip compile --universal --python-version 3.11 --quiet --no-annotate \
  --custom-compile-command "make lock" $(if $(UPGRADE),--upgrade)

# Of what runs on a Jetson. The first is a part of the bundle.
COMPILE_DEVICE = $(subst --python-version 3.11,--python-version 3.10,$(COMPILE))
DEVICE_LOCK := export/engines/device/requirements.txt

lock: $(VENV)/.installed-dev ## Write the lock files anew from pyproject.toml (UPGRADE=1: newest versions)
	$(COMPILE) pyproject.toml --group build --extra dev -o locks/dev.txt
	$(COMPILE) pyproject.toml --extra cpu -c locks/dev.txt -o locks/run.txt
	$(COMPILE) pyproject.toml --group build --extra cpu --extra openvino --extra api -c locks/dev.txt -o locks/server.txt
	$(COMPILE) pyproject.toml --group build --extra cpu --extra openvino --extra export -c locks/dev.txt -o locks/base.txt
	$(COMPILE) pyproject.toml --group build --group ray-tests --extra cpu --extra ray -o locks/ray.txt
	for name in serve api embed bench docs eval; do $(COMPILE) pyproject.toml --group build --extra cpu \
	  --extra openvino --extra export --extra $$name -c locks/dev.txt -o locks/$$name.txt || exit; done
	$(COMPILE) pyproject.toml --group build --extra interop -o locks/interop.txt
	$(COMPILE) locks/triton.in -o locks/triton.txt
	$(COMPILE_DEVICE) locks/device.in -o $(DEVICE_LOCK)
	$(COMPILE_DEVICE) locks/python310.in -c $(DEVICE_LOCK) -o locks/python310.txt
	for name in $(CLIENT_NAMES); do $(COMPILE) --no-emit-package torchvision \
	  locks/clients/$$name.in -o locks/clients/$$name.txt || exit; done
	for name in $(RIVAL_NAMES); do $(COMPILE) \
	  locks/rivals/$$name.in -o locks/rivals/$$name.txt || exit; done
	cd locks/clients/transformers.js && npm install --package-lock-only --ignore-scripts --no-audit \
	  --no-fund --omit-lockfile-registry-resolved

test-interop: $(INTEROP_VENV)/.installed $(CLIENT_NAMES:%=$(CLIENTS)/%/.installed) ## Bundles in other people's programs, clients and page of the HTTP server, and the wheel, in environments of their own (about twenty minutes)
	@$(MAKE) --no-print-directory $(CLIENTS)/transformers.js/.installed || \
	  echo "transformers.js could not be installed; its tests are skipped, or fail where CI is set."
	@command -v chromium > /dev/null || \
	  echo "chromium is not installed; its tests are skipped, or fail where CI is set."
	$(INTEROP_VENV)/bin/python -m pytest tests/interop

clients: $(VENV)/.installed ## Make the last run of make test-interop the record that the tables of clients are of
	$(BIN)/python -m tests.interop.client_table

check-newest: ## The newest versions that pyproject.toml allows: install, build, a part of the tests
	rm -rf $(NEWEST_VENV)
	$(PYTHON) -m venv $(NEWEST_VENV)
	$(NEWEST_VENV)/bin/python $(PIP_INSTALL) --upgrade --editable '.[dev]'
	$(NEWEST_VENV)/bin/python -m tests.newest
