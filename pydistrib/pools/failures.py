"""An exception on its way between processes: with the text of its traceback."""

from __future__ import annotations

from typing import Any

from pydistrib.pools import pickling


class _Shown:
    """Stands for a thing in an error, by its repr, which may fail."""

    def __init__(self, thing: Any) -> None:
        try:
            self.text = repr(thing)
        except BaseException:
            self.text = f"<{type(thing).__qualname__} whose repr() fails>"

    def __repr__(self) -> str:
        return self.text


def encoding_error(refusal: BaseException, thing: Any) -> BaseException:
    from multiprocessing.pool import MaybeEncodingError  # type: ignore[attr-defined]

    error: BaseException = MaybeEncodingError(_Shown(refusal), _Shown(thing))
    return error


def pack_failure(error: BaseException) -> bytes:
    """Pickle an exception together with the text of its traceback."""
    import traceback

    try:
        lines = traceback.format_exception(error)
    except BaseException:  # its text can't be made
        lines = [*traceback.format_tb(error.__traceback__), type(error).__qualname__]
    text = "".join(lines)
    try:
        data = pickling.dumps_result(error, None)
        pickling.loads(data)
    except BaseException as refusal:
        data = pickling.dumps_result(encoding_error(refusal, error), None)
    return pickling.dumps_result((text, data), None)


def unpack_failure(data: Any) -> tuple[str, BaseException]:
    """Give the text of the worker's traceback and the exception, whose cause it is."""
    from multiprocessing.pool import (  # type: ignore[attr-defined]
        MaybeEncodingError,
        RemoteTraceback,
    )

    text, pickled = pickling.loads(data)
    try:
        error = pickling.loads(pickled)
        if not isinstance(error, BaseException):
            raise TypeError(f"not an exception: {error!r:.200}")
    except BaseException as refusal:
        error = MaybeEncodingError(refusal, text)
    error.__cause__ = RemoteTraceback(f'\n"""\n{text}"""')
    return text, error
