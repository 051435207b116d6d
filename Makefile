# SPDX-License-Identifier: MIT
# make demo, make test: each sets up everything it needs in .venv first.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CPP_BUILD := build/cpp
BENCH_BUILD ?= build/bench
DEMO_DIR ?= certcal-demo
CERTCAL_CUDA ?= AUTO
export CERTCAL_CUDA

SOURCES := CMakeLists.txt pyproject.toml constraints.txt $(shell find csrc -type f)

.PHONY: demo docs test test-python test-cpp lint format bench bench-cpp coefficients clean check-tools sanitize fuzz wheel check-wheel

demo: $(VENV)/.installed
	$(BIN)/certcal demo --out $(DEMO_DIR)

test: test-cpp test-python

test-python: $(VENV)/.installed
	$(BIN)/pytest

test-cpp: $(CPP_BUILD)/.built
	$(CPP_BUILD)/csrc/tests/certcal_cpp_tests

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $$(git ls-files 'csrc/*.hpp' 'csrc/*.cpp' 'csrc/*.cu' 'bench/*.cpp' 'bench/*.hpp')

format: $(VENV)/.installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $$(git ls-files 'csrc/*.hpp' 'csrc/*.cpp' 'csrc/*.cu' 'bench/*.cpp' 'bench/*.hpp')

# The documentation as a site, build/docs/index.html; every warning is an error. It needs no network.
docs: $(VENV)/.installed
	$(BIN)/sphinx-build -W --keep-going -n -q -b html docs build/docs

bench: $(VENV)/.installed
	$(BIN)/python bench/run.py

# The C++ benchmarks, a few seconds each; CUDA too where nvcc and a device are there.
bench-cpp: $(VENV)/.installed
	$(BIN)/cmake -S . -B $(BENCH_BUILD) -G Ninja -DCMAKE_MAKE_PROGRAM=$(abspath $(BIN))/ninja \
	  -DCERTCAL_BUILD_PYTHON=OFF -DCERTCAL_BUILD_BENCH=ON -DCERTCAL_CUDA=$(CERTCAL_CUDA)
	$(BIN)/cmake --build $(BENCH_BUILD)
	@mkdir -p bench/results
	for name in noise votes certify ece; do \
	  $(BENCH_BUILD)/bench/bench_$$name --benchmark_min_time=0.05 --benchmark_repetitions=7 \
	    --benchmark_report_aggregates_only=true --benchmark_context=commit=$$(git describe --always --dirty) \
	    --benchmark_out_format=json --benchmark_out=bench/results/cpp_$$name.json || exit 1; \
	done

# The C++ tests, and the inputs that fuzzing has kept, under AddressSanitizer with UndefinedBehaviorSanitizer, then under ThreadSanitizer.
sanitize: $(VENV)/.installed
	for kind in address,undefined thread; do \
	  $(BIN)/cmake -S . -B build/$$kind -G Ninja -DCERTCAL_BUILD_PYTHON=OFF -DCERTCAL_BUILD_TESTS=ON \
	    -DCERTCAL_BUILD_FUZZ=ON -DCERTCAL_CUDA=OFF -DCERTCAL_SANITIZE=$$kind -DCMAKE_BUILD_TYPE=RelWithDebInfo && \
	  $(BIN)/cmake --build build/$$kind && build/$$kind/csrc/tests/certcal_cpp_tests && \
	  build/$$kind/csrc/fuzz/certcal_fuzz_replay csrc/fuzz/corpus || exit 1; \
	done

# Fuzzing of the C++ entry points and of the readers of files; needs clang and a network once (atheris).
SECONDS ?= 600
fuzz: $(VENV)/.installed
	bash tools/fuzz/run.sh $(SECONDS)

# The sdist, and the wheel that is built from it, in dist/.
wheel: check-tools
	PYTHON=$(PYTHON) bash tools/check_wheel.sh --build dist

# The same in a folder of its own, then the tests in an empty environment, without the source tree.
check-wheel: check-tools
	PYTHON=$(PYTHON) CERTCAL_CUDA=OFF bash tools/check_wheel.sh

coefficients: $(VENV)/.installed
	$(BIN)/python tools/make_coefficients.py

clean:
	rm -rf $(VENV) build $(DEMO_DIR)

# One line that says what is missing, before anything is downloaded.
check-tools:
	@command -v $(PYTHON) >/dev/null || { echo "certcal needs Python 3.10 or newer; '$(PYTHON)' was not found (set PYTHON=...)" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "certcal needs Python 3.10 or newer; $$($(PYTHON) --version) was found (set PYTHON=...)" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "certcal needs Python's venv module (Debian: apt-get install python3-venv)" >&2; exit 1; }
	@command -v $${CXX:-c++} >/dev/null || { echo "certcal needs a C++17 compiler; '$${CXX:-c++}' was not found (Debian: apt-get install g++)" >&2; exit 1; }

$(VENV)/bin/python: | check-tools
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(VENV)/bin/python $(SOURCES)
	@$(MAKE) --no-print-directory check-tools
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt \
	  "scikit-build-core>=0.10" "pybind11>=2.12" "cmake>=3.25" ninja
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt --no-build-isolation \
	  -C build-dir=build/python -e ".[test,lint,docs]"
	@touch $@

$(CPP_BUILD)/.built: $(VENV)/.installed $(SOURCES)
	$(BIN)/cmake -S . -B $(CPP_BUILD) -G Ninja -DCMAKE_MAKE_PROGRAM=$(abspath $(BIN))/ninja \
	  -DCERTCAL_BUILD_PYTHON=OFF -DCERTCAL_BUILD_TESTS=ON -DCERTCAL_CUDA=OFF \
	  -Dpybind11_DIR=$$($(BIN)/python -m pybind11 --cmakedir) -DPython_EXECUTABLE=$(abspath $(BIN))/python
	$(BIN)/cmake --build $(CPP_BUILD)
	@touch $@
