"""
pydistrib as a library that `threadpoolctl` knows: `threadpool_limits` limits it too.

Registered when pydistrib is imported, where threadpoolctl is installed.
"""

from __future__ import annotations

import importlib.util

from pydistrib import _config


def register_if_installed() -> None:
    """Make threadpoolctl know pydistrib, if there is a threadpoolctl that can."""
    if importlib.util.find_spec("threadpoolctl") is None:
        return
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
