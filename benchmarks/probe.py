"""Compiles store_probe.c, which measures how fast memory takes writes."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sysconfig
import tempfile
from functools import cache
from pathlib import Path
from types import ModuleType

SOURCE = Path(__file__).with_name("store_probe.c")


@cache
def store_probe() -> ModuleType | None:
    """The module, or None where there is no C compiler."""
    compiler = os.environ.get("CC", "cc").split()
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / f"store_probe{suffix}"
        flags = ["-O2", "-shared", "-fPIC", "-pthread"]
        include = sysconfig.get_path("include")
        command = [*compiler, *flags, f"-I{include}", str(SOURCE), "-o", str(target)]
        if os.uname().sysname == "Darwin":
            command += ["-undefined", "dynamic_lookup"]
        try:
            subprocess.run(command, check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            print(f"no probe of the memory: {error}")
            return None
        spec = importlib.util.spec_from_file_location("store_probe", target)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)  # stays mapped when its file is gone
        return module
