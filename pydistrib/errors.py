"""Exceptions that several parts of the package raise."""

from __future__ import annotations

import multiprocessing

TimeoutError = multiprocessing.TimeoutError
