# make demo | test | lint | sanitize | bench: each sets up what it needs first.
#
# The virtual environment is .venv; PYTHON chooses the interpreter it is made with.

PYTHON ?= python3
VENV ?= .venv
CC ?= cc
JOBS ?= $(shell nproc 2> /dev/null || echo 2)
BIN = $(VENV)/bin
PIP = $(BIN)/pip --quiet --disable-pip-version-check

CORE_SOURCES = $(wildcard src/base/*.c src/thread/*.c src/simd/*.c src/pairwise/*.c src/expr/*.c \
                         src/shm/*.c)
CORE_HEADERS = $(wildcard src/*/*.h)
CORE_TESTS = $(patsubst tests/core/%.c,%,$(wildcard tests/core/test_*.c))
SOURCES = $(CORE_SOURCES) $(CORE_HEADERS) $(wildcard src/py/*.c) setup.py pyproject.toml

# The same floating-point rules as setup.py's: every build computes the same bits.
WARNINGS = -Wall -Wextra -Wconversion -Wshadow -Wstrict-prototypes -Werror
CORE_FLAGS = -std=gnu11 $(WARNINGS) -ffp-contract=off -fno-math-errno -fno-trapping-math \
             -DPD_TEST -Isrc -Itests/core -pthread

.PHONY: demo test test-oldest lint sanitize sanitize-python bench core-test format clean

demo: $(VENV)/.demo
	$(BIN)/python -m pydistrib

test: $(VENV)/.test core-test
	set -e; levels=$$($(BIN)/python -c "from pydistrib import _core; \
	        print(*_core.simd_info()['available'][1:])"); \
	for level in $$levels; do \
	    echo "the kernels' tests at PYDISTRIB_SIMD=$$level"; \
	    PYDISTRIB_SIMD=$$level $(BIN)/python -m pytest tests/kernels; \
	done
	$(BIN)/python -m pytest

# What is built against NumPy 2 runs on the oldest NumPy that is promised.
OLDEST = $(CURDIR)/.venv-oldest
test-oldest: $(VENV)/.test
	rm -rf build/wheel
	$(PIP) wheel --no-build-isolation --no-deps --wheel-dir build/wheel .
	test -x $(OLDEST)/bin/python || $(BIN)/python -m venv $(OLDEST)
	$(OLDEST)/bin/pip --quiet --disable-pip-version-check install --force-reinstall \
	    'numpy==1.25.*' 'scipy==1.11.*' hypothesis pytest pytest-timeout build/wheel/*.whl
	PYTHONSAFEPATH=1 $(OLDEST)/bin/python -m pytest -p no:cacheprovider tests/kernels

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m mypy.stubtest pydistrib._core --mypy-config-file pyproject.toml
	$(BIN)/clang-format --dry-run --Werror $(wildcard src/*/*.[ch] tests/core/*.[ch])
	set -e; for cc in gcc clang; do \
	    command -v $$cc > /dev/null || continue; \
	    for file in $(CORE_SOURCES); do $$cc $(CORE_FLAGS) -O1 -fsyntax-only $$file; done; \
	done

# The core's tests, without an interpreter, under the sanitizers.  ThreadSanitizer cannot
# start threads after a fork, so there the tests that fork stay out.
sanitize:
	$(MAKE) -j$(JOBS) core-test BUILD=build/asan SANITIZE=address,undefined
	$(MAKE) -j$(JOBS) core-test BUILD=build/tsan SANITIZE=thread EXTRA=-DPD_TEST_NO_FORK

# The whole extension under AddressSanitizer and UBSan in the stock interpreter, on a copy
# of the sources.  Not in CI: it is slow.  TESTS chooses what runs.
SANITIZED = $(CURDIR)/build/sanitized
TESTS ?= tests/kernels
sanitize-python: $(VENV)/.test
	rm -rf $(SANITIZED)
	mkdir -p $(SANITIZED)
	cp -r pydistrib src setup.py pyproject.toml README.md LICENSE $(SANITIZED)
	find $(SANITIZED) -name '*.so' -delete
	cd $(SANITIZED) && PYDISTRIB_SANITIZE=address,undefined \
	    $(CURDIR)/$(BIN)/python setup.py -q build_ext --inplace
	LD_PRELOAD="$$($(CC) -print-file-name=libasan.so) $$($(CC) -print-file-name=libubsan.so)" \
	    ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 \
	    UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 \
	    PYTHONMALLOC=malloc PYTHONSAFEPATH=1 PYTHONPATH=$(SANITIZED) \
	    $(BIN)/python -m pytest -p no:cacheprovider $(TESTS)

BUILD ?= build/core
SANITIZE ?=
EXTRA ?=
SANITIZE_FLAGS = $(if $(SANITIZE),-fsanitize=$(SANITIZE) -fno-sanitize-recover=all)
CORE_OBJECTS = $(patsubst src/%.c,$(BUILD)/%.o,$(CORE_SOURCES))
.SECONDARY: $(CORE_OBJECTS)

core-test: $(patsubst %,$(BUILD)/%,$(CORE_TESTS))
	set -e; for test in $^; do echo $$test; timeout 300 $$test; done

$(BUILD)/%.o: src/%.c $(CORE_HEADERS)
	@mkdir -p $(@D)
	$(CC) $(CORE_FLAGS) $(EXTRA) $(SANITIZE_FLAGS) -O2 -g -c $< -o $@

$(BUILD)/test_%: tests/core/test_%.c $(wildcard tests/core/*.h) $(CORE_OBJECTS)
	$(CC) $(CORE_FLAGS) $(EXTRA) $(SANITIZE_FLAGS) -O1 -g $< $(CORE_OBJECTS) -lm -o $@

# make bench BENCH=--quick, or BENCH='--only metrics memory'
bench: $(VENV)/.bench
	$(BIN)/python benchmarks/run.py $(BENCH)

format: $(VENV)/.test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(wildcard src/*/*.[ch] tests/core/*.[ch])

# One stamp an extra: what was installed, and from which sources.
$(VENV)/.%: $(SOURCES)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --upgrade pip 'setuptools>=77' wheel 'numpy>=2.0'
	$(PIP) install --no-build-isolation --editable '.[$*]'
	touch $@

clean:
	rm -rf build dist $(VENV) .pytest_cache .mypy_cache .ruff_cache *.egg-info
	find . -name '*.so' -delete
