"""
pydistrib as a library that `threadpoolctl` knows: `threadpool_limits` limits it too.

Importing pydistrib must not import threadpoolctl, and users import the two in either
order.  So where threadpoolctl is not there yet, its import is watched for.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from pydistrib import _config

NAME = "threadpoolctl"


def register() -> None:
    """Make threadpoolctl, which is imported, know pydistrib."""
    import threadpoolctl

    if not hasattr(threadpoolctl, "register"):
        return  # older than 3.2

    class PydistribController(threadpoolctl.LibController):  # type: ignore[misc]
        """The threads of pydistrib's calls, as `set_num_threads` sets them."""

        user_api = "pydistrib"
        internal_api = "pydistrib"
        filename_prefixes = ("_core",)
        check_symbols = ("pydistrib_threads_api",)

        def get_num_threads(self) -> int:
            return _config.num_threads()

        def set_num_threads(self, num_threads: int) -> None:
            # Restoring what was there is giving the limit up.
            default = _config.default_threads()
            _config.set_num_threads(None if num_threads == default else num_threads)

        def get_version(self) -> str:
            from pydistrib import __version__

            return __version__

        def set_additional_attributes(self) -> None:
            """Add nothing: there is one kind of thread."""

    threadpoolctl.register(PydistribController)


class _Loader:
    """The loader of threadpoolctl, which registers when it is through."""

    def __init__(self, loader: Any) -> None:
        self.loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        module: ModuleType | None = self.loader.create_module(spec)
        return module

    def exec_module(self, module: ModuleType) -> None:
        spec = module.__spec__
        if spec is not None:
            spec.loader = module.__loader__ = self.loader
        self.loader.exec_module(module)
        register()


class _Finder:
    """Finds threadpoolctl as the others do, once, and wraps its loader."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != NAME:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)  # type: ignore[assignment]
        return spec


def register_when_imported() -> None:
    """Register now, or as soon as somebody imports threadpoolctl."""
    if NAME in sys.modules:
        register()
    else:
        sys.meta_path.insert(0, _Finder())
