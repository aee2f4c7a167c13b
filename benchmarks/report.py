"""The report: a table as text and as markdown, JSON, and a plot of value over target."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from timing import Row, Timing

TIMES = "Times: minimum / median in ms; `*`: other processes had CPUs all the time."
HEADER = ("case", "against", "ours", "theirs", "value", "target", "met")


def _milliseconds(timing: Timing | None) -> str:
    if timing is None:
        return ""
    mark = " *" if timing.disturbed else ""
    return f"{1e3 * timing.minimum:.4g} / {1e3 * timing.median:.4g}{mark}"


def _cells(row: Row) -> tuple[str, ...]:
    sign = "" if row.target is None else ">=" if row.better == "higher" else "<="
    return (
        row.case,
        row.peer,
        _milliseconds(row.ours),
        _milliseconds(row.theirs),
        f"{row.value:.3g} {row.unit}",
        "" if row.target is None else f"{sign} {row.target:g} {row.unit}",
        _met(row),
    )


def _met(row: Row) -> str:
    if row.met is None:
        return "" if row.target is None else "disturbed"
    return "yes" if row.met else "NO"


def _by_subject(rows: list[Row]) -> dict[str, list[Row]]:
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.subject, []).append(row)
    return groups


def as_text(machine: dict[str, str], rows: list[Row]) -> str:
    """Times are minimum / median in milliseconds."""
    width = max(map(len, machine))
    lines = [f"{name:<{width}}  {text}" for name, text in machine.items()]
    for subject, group in _by_subject(rows).items():
        table = [HEADER, *map(_cells, group)]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines += ["", f"{subject}  (minimum / median in ms; * disturbed)"]
        for cells in table:
            padded = (f"{cell:<{w}}" for cell, w in zip(cells, widths, strict=True))
            lines.append("  ".join(padded).rstrip())
        lines += [f"  {note}" for note in dict.fromkeys(r.note for r in group) if note]
    missed = [row for row in rows if row.met is False]
    barred = [row for row in rows if row.target is not None]
    met = sum(row.met is True for row in rows)
    lines += ["", f"{met} of {len(barred)} targets met"]
    lines += [f"  missed: {row.subject}: {row.case}, {row.peer}" for row in missed]
    return "\n".join(lines) + "\n"


def as_markdown(machine: dict[str, str], rows: list[Row]) -> str:
    lines = [f"- {name}: {text}" for name, text in machine.items()]
    for subject, group in _by_subject(rows).items():
        lines += [
            "",
            f"### {subject}",
            "",
            TIMES,
            "",
            "",
        ]
        lines.append("| " + " | ".join(HEADER) + " |")
        lines.append("|" + " --- |" * len(HEADER))
        lines += ["| " + " | ".join(_cells(row)) + " |" for row in group]
        notes = dict.fromkeys(row.note for row in group if row.note)
        lines += ["", *notes] if notes else []
    return "\n".join(lines) + "\n"


def plot(rows: list[Row], path: Path) -> None:
    """Draw how far each value is beyond its target, on a logarithmic axis."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    barred = [row for row in rows if row.met is not None and row.target and row.value > 0]
    if not barred:
        return
    reach = [
        row.value / row.target if row.better == "higher" else row.target / row.value
        for row in barred
        if row.target
    ]
    figure, axes = pyplot.subplots(figsize=(9, 1 + 0.22 * len(barred)))
    colours = ["tab:green" if row.met else "tab:red" for row in barred]
    axes.barh(range(len(barred)), reach, color=colours, log=True)
    labels = [f"{row.case}, {row.peer}" for row in barred]
    axes.set_yticks(range(len(barred)), labels, fontsize=7)
    axes.invert_yaxis()
    axes.axvline(1, color="black", linewidth=1)
    axes.set_xlabel("reached / target: right of the line is met")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def write(folder: Path, machine: dict[str, str], rows: list[Row]) -> str:
    """Write everything to `folder`; give the text."""
    folder.mkdir(parents=True, exist_ok=True)
    text = as_text(machine, rows)
    (folder / "table.txt").write_text(text)
    (folder / "table.md").write_text(as_markdown(machine, rows))
    content = {"machine": machine, "rows": [dataclasses.asdict(row) for row in rows]}
    (folder / "results.json").write_text(json.dumps(content, indent=2) + "\n")
    try:
        plot(rows, folder / "targets.png")
    except ImportError:
        text += "no plot: matplotlib is not installed\n"
    return text
