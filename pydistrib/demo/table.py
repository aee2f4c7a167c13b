"""How rows are shown: as text for people, as JSON for machines; and progress."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final, TextIO

from pydistrib.demo.comparison import Row

_HEADER: Final = ("size", "original", "seconds", "pydistrib", "ratio", "same answer")
_RIGHT: Final = (3, 4, 5)
_GAP: Final = "  "


class Progress:
    """Say on a terminal what is being done; elsewhere say nothing."""

    def __init__(self, steps: int, stream: TextIO) -> None:
        self._steps = steps
        self._step = 0
        self._title = ""
        self._stream = stream if stream.isatty() else None

    def next(self, title: str) -> None:
        """Go on to the next step."""
        self._step += 1
        self._title = title
        self.say("")

    def say(self, detail: str) -> None:
        """Show a detail of the step."""
        self._write(f"[{self._step}/{self._steps}] {self._title} {detail}")

    def close(self) -> None:
        """Clear the line."""
        self._write("")

    def _write(self, text: str) -> None:
        if self._stream:
            print(f"\r\033[K{text}", end="", file=self._stream, flush=True)


def as_json(facts: Mapping[str, Any], sections: Mapping[str, Sequence[Row]]) -> str:
    """Give facts and rows as a JSON object, every section under its name."""
    rows = {title: [asdict(row) for row in rows] for title, rows in sections.items()}
    return json.dumps({**facts, **rows}, indent=2, allow_nan=False)


def as_text(sections: Mapping[str, Sequence[Row]]) -> str:
    """Lay the rows out, one section under the other, and their remarks at the end."""
    tables = [[(title, *_HEADER), *map(_cells, rows)] for title, rows in sections.items()]
    lines = [line for table in tables for line in table]
    columns = zip(*(line for line in lines if len(line) > 2), strict=True)
    widths = [max(map(len, column)) for column in columns]
    widths[0] = max(len(line[0]) for line in lines)
    rule = "-" * (sum(widths) + len(_GAP) * (len(widths) - 1))
    parts = []
    for header, *rows in tables:
        body = (_line(row, widths) for row in rows)
        parts.append("\n".join([_line(header, widths), rule, *body]))
    remarks = [
        f"{row.example.ljust(widths[0])}{_GAP}{text}"
        for rows in sections.values()
        for row in rows
        if (text := _remark(row))
    ]
    return "\n\n".join([*parts, "\n".join(remarks)]).rstrip()


def _cells(row: Row) -> tuple[str, ...]:
    if row.missing:
        return row.example, f"needs {row.missing}: {row.install}"
    assert row.ratio is not None
    return (
        row.example,
        row.size,
        row.original,
        _seconds(row.original_seconds),
        _seconds(row.pydistrib_seconds),
        f"{row.ratio:.0f}x" if row.ratio >= 9.95 else f"{row.ratio:.1f}x",
        "yes" if row.same else "NO",
    )


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    return _GAP.join(
        cell.rjust(width) if i in _RIGHT else cell.ljust(width)
        for i, (cell, width) in enumerate(zip(cells, widths, strict=False))
    ).rstrip()


def _remark(row: Row) -> str:
    score = row.score
    return "; ".join(
        text
        for text in (
            f"{score.name} {score.value:.3f} {score.on}" if score else "",
            row.note,
            f"first call: {_seconds(row.pydistrib_first_call_seconds)} s"
            if row.calls and row.calls > 1
            else "",
            f"{row.peer}: {_seconds(row.peer_seconds)} s" if row.peer else "",
        )
        if text
    )


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:#.3g}"
