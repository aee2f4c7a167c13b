"""Build the native core; everything else is in pyproject.toml."""

import os
import sys
from pathlib import Path

import numpy
from setuptools import Extension, setup

if sys.platform == "win32":
    raise SystemExit("pydistrib needs POSIX threads: Linux or macOS (Windows: use WSL).")

SANITIZE = os.environ.get("PYDISTRIB_SANITIZE")  # e.g. "address,undefined"
DEBUG = bool(SANITIZE or os.environ.get("PYDISTRIB_DEBUG"))

# -ffp-contract=off: only the fused multiply-adds that are written fuse, so that
# every instruction set computes the same bits.
cflags = [
    "-std=gnu11",
    "-Wall",
    "-Wextra",
    "-Wshadow",
    "-Wstrict-prototypes",
    "-ffp-contract=off",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fvisibility=hidden",
    "-pthread",
]
cflags += ["-Werror", "-O1", "-g", "-UNDEBUG"] if DEBUG else ["-O3"]
ldflags = ["-pthread"]
if SANITIZE:
    cflags.append(f"-fsanitize={SANITIZE}")
    ldflags.append(f"-fsanitize={SANITIZE}")

setup(
    ext_modules=[
        Extension(
            "pydistrib._core",
            sources=sorted(map(str, Path("src").glob("*/*.c"))),
            depends=sorted(map(str, Path("src").glob("*/*.h"))),
            include_dirs=["src", numpy.get_include()],
            define_macros=[
                ("NPY_NO_DEPRECATED_API", "NPY_1_25_API_VERSION"),
                ("NPY_TARGET_VERSION", "NPY_1_25_API_VERSION"),
            ],
            extra_compile_args=cflags,
            extra_link_args=ldflags,
        )
    ]
)
