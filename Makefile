# make test       everything that is needed, then the tests
# make demo       everything that is needed, then the main job on the built-in collection
# make lint       ruff, mypy, clang-format           make cuda-check  the CUDA kernels, without a GPU
# make bench      the benchmarks and their table     make bench-table the README's table alone
# make wheel      a wheel in dist/                   make clean
#
# PYTHON=python3.12   the Python of the environment          CPU=1     PyTorch's CPU build (Linux)
# VENV=.venv          where the environment is               SYSTEM=1  this Python as it is, no pip
# PYTEST_ARGS=...     more arguments for pytest           JOBS=2    tests run at once
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV ?= .venv
JOBS ?= 2
export OMP_WAIT_POLICY ?= PASSIVE

SOURCES := $(wildcard csrc/CMakeLists.txt csrc/cmake/* csrc/*.h csrc/audio/* csrc/cpu/* csrc/cuda/*)
CXX_SOURCES := $(filter %.h %.cpp %.cu,$(SOURCES))
PIP = $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
	$(if $(CPU),--extra-index-url https://download.pytorch.org/whl/cpu)

ifdef SYSTEM
READY := build/system/.ready
RUN := PYTHONPATH=$(CURDIR) $(PYTHON)
PARALLEL :=
else
READY := $(VENV)/.ready
RUN := $(abspath $(VENV))/bin/python
PARALLEL := -n $(JOBS) --dist worksteal
endif

# Large activations come from the heap again instead of fresh pages of the kernel's.
TUNED_MALLOC = FASTMTE_BENCH_ALLOCATOR=tuned MALLOC_MMAP_THRESHOLD_=4294967296 \
	MALLOC_TRIM_THRESHOLD_=17179869184 MALLOC_TOP_PAD_=1073741824

.PHONY: setup test demo lint bench bench-table wheel cuda-check clean
.DELETE_ON_ERROR:
setup: $(READY)

# torch comes first: the kernels are compiled against the torch that is there.
$(VENV)/.ready: pyproject.toml constraints.txt $(SOURCES)
	@test -n "$(PYTHON)" || { echo "no Python 3.11 or later on PATH; PYTHON=... names one" >&2; exit 1; }
	@test -x $(VENV)/bin/pip || $(PYTHON) -m venv $(VENV) || \
		{ rm -rf $(VENV); echo "$(PYTHON) makes no environments: apt install python3-venv" >&2; exit 1; }
	@echo "setting up $(VENV): torch, then fastmte with its kernels (a few minutes, once)"
	@$(PIP) torch
	@$(PIP) --editable '.[dev]'
	@touch $@

# The libraries beside the modules. Without CMake or a compiler the slower tiers run.
build/system/.ready: $(SOURCES)
	@mkdir -p build/system
	-cmake -S csrc -B build/system -DPython_EXECUTABLE=$$($(PYTHON) -c 'import sys; print(sys.executable)') \
		&& cmake --build build/system --parallel && cmake --install build/system --prefix .
	@touch $@

test: $(READY)
	$(RUN) -m pytest $(PARALLEL) $(PYTEST_ARGS)

demo: $(READY)
	$(RUN) -m fastmte train --partition dkmeans --backbone resnet18 --data demo --out runs/demo --force
	cd demo-data/audio && $(RUN) -m fastmte tag --from-file ../test-songs.txt \
		--model $(CURDIR)/runs/demo -o $(CURDIR)/runs/demo/tagged --force
	$(RUN) -m fastmte report runs/demo
	@echo "look at runs/demo/report.html"

lint: $(READY)
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy
	$(if $(SYSTEM),,$(VENV)/bin/)clang-format --dry-run -Werror $(CXX_SOURCES)

cuda-check: $(READY)
	FASTMTE_REQUIRE_NVCC=1 $(RUN) -m pytest tests/test_cuda.py

bench: $(READY)
	@mkdir -p bench/results
	$(RUN) -m pytest bench/bench_store.py --benchmark-json=bench/results/store.json
	OPENBLAS_NUM_THREADS=1 $(RUN) -m pytest bench/bench_centroids.py \
		--benchmark-json=bench/results/centroids.json
	OPENBLAS_NUM_THREADS=1 $(RUN) -m pytest bench/bench_audio.py \
		--benchmark-json=bench/results/audio.json
	OPENBLAS_NUM_THREADS=1 $(RUN) -m pytest bench/bench_partition.py \
		--benchmark-json=bench/results/partition.json
	$(TUNED_MALLOC) $(RUN) -m pytest bench/bench_stems.py --benchmark-json=bench/results/stems.json
	$(RUN) -m pytest bench/bench_ensemble.py --benchmark-json=bench/results/ensemble.json
	$(TUNED_MALLOC) $(RUN) -m pytest bench/bench_ensemble.py \
		--benchmark-json=bench/results/ensemble-tuned.json
	$(RUN) -m pytest bench/bench_training.py --benchmark-json=bench/results/training.json
	$(TUNED_MALLOC) $(RUN) -m pytest bench/bench_training.py \
		--benchmark-json=bench/results/training-tuned.json
	@if $(RUN) -c 'import onnxruntime, openvino' 2>/dev/null; then \
		$(TUNED_MALLOC) $(RUN) -m pytest bench/bench_engines.py \
			--benchmark-json=bench/results/engines.json; \
	else echo "without OpenVINO and onnxruntime their benchmarks are left out"; fi
	$(RUN) -m bench.table

bench-table: $(READY)
	$(RUN) -m bench.table

# Built in an environment of pip's own, against the torch of this one, which it does not contain.
wheel: $(READY)
	$(RUN) -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist .

clean:
	rm -rf $(VENV) build dist fastmte/*.so fastmte/_build.json
	find . -name __pycache__ -prune -exec rm -rf {} +
