"""Writes the tables of docs/benchmarks.md and docs/performance.md from benchmarks/results.

A table stands between two comments of the page and is replaced whole:

    <!-- bench train_step -->                  works by candidates: time relative to ours
    <!-- bench train_step work=resnet50 -->    one work: medians, spreads, ratios
    <!-- bench startup goal=step -->           one goal of startup.py, its stages
    <!-- bench memory network=lstm -->         one network of memory.py
    <!-- bench convolutions -->                GFLOP/s of each convolution and candidate
    <!-- bench train_step environment -->      processor and versions, as a sentence
    <!-- /bench -->                            ends each

`--check` writes nothing and fails where a table differs from its results file.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import memory
import startup
from _timing import Timing, table

ROOT = Path(__file__).resolve().parent.parent
# A row's keys that are not facts about what was measured.
_FIGURES = ("name", "seconds", "missing", "stages", "title")
_MARKED = re.compile(r"(<!-- bench ([^>]*?) -->\n).*?(<!-- /bench -->)", re.DOTALL)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    pages = [ROOT / "docs" / name for name in ("benchmarks.md", "performance.md")]
    parser.add_argument("pages", nargs="*", type=Path, default=pages)
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    stale = []
    for page in options.pages:
        text = page.read_text()
        rendered = render(text, options.results)
        if rendered != text:
            stale.append(str(page))
            if not options.check:
                page.write_text(rendered)
    if options.check and stale:
        sys.exit(f"not what benchmarks/results says: {', '.join(stale)}; run benchmarks/report.py")


def render(text: str, directory: Path) -> str:
    """A page with its tables replaced; a marker without a results file stays as it is.

    Args:
      text: of the page.
      directory: where the results files are.

    Raises:
      ValueError: a marker asks for what its file does not have.
    """

    def replaced(match: re.Match[str]) -> str:
        name, *wanted = match[2].split()
        file = directory / f"{name}.json"
        if not file.is_file():
            return match[0]
        return f"{match[1]}\n{one(json.loads(file.read_text()), wanted, match[2])}\n\n{match[3]}"

    return _MARKED.sub(replaced, text)


def one(found: Mapping[str, Any], wanted: Sequence[str], marker: str) -> str:
    """What stands at one marker.

    Args:
      found: a results file.
      wanted: the words of the marker after the file's name.
      marker: its text, for the message.

    Raises:
      ValueError: no row has these facts.
    """
    if list(wanted) == ["environment"]:
        return ", ".join(f"{key} {value}" for key, value in found["environment"].items()) + "."
    facts = dict(word.split("=", 1) for word in wanted)
    rows = [row for row in found["results"] if all(str(row.get(k)) == v for k, v in facts.items())]
    if not rows:
        raise ValueError(f"bench {marker}: the results file has no such rows")
    groups: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault(heading(row), []).append(row)
    if any("goal" in row for row in rows) or any("network" in row for row in rows):
        return staged(rows)
    if all("gflop" in row for row in rows):
        return rates(rows)
    if len(groups) > 1:
        return summary(groups)
    timings, missing = parts(rows)
    return table(timings, baseline=rows[0]["name"], missing=missing)


def summary(groups: Mapping[tuple[str, ...], Sequence[Mapping[str, Any]]]) -> str:
    """One line for each group: our median and spread, and the others' times relative to it."""
    names = list(dict.fromkeys(row["name"] for rows in groups.values() for row in rows))
    lines = [
        f"| | {names[0]}, ms | min - max ms | {' | '.join(names[1:])} |",
        "|" + "---|" * (len(names) + 2),
    ]
    for title, rows in groups.items():
        timings, missing = parts(rows)
        base = timings[names[0]]
        low, high = (f"{1e3 * value:.4g}" for value in (min(base.seconds), max(base.seconds)))
        cells = [", ".join(title), f"{1e3 * base.median:.4g}", f"{low} - {high}"]
        for name in names[1:]:
            here = timings.get(name)
            cells.append(f"{here.ratio(base):.2f}" if here else missing.get(name, ""))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def rates(rows: Sequence[Mapping[str, Any]]) -> str:
    """One line for each work of convolutions.py: what each candidate reaches, by its median."""
    names = list(dict.fromkeys(row["name"] for row in rows))
    lines = [f"| GFLOP/s | {' | '.join(names)} |", "|" + "---|" * (len(names) + 1)]
    for work in dict.fromkeys(row["work"] for row in rows):
        timings, missing = parts([row for row in rows if row["work"] == work])
        gflop = next(row["gflop"] for row in rows if row["work"] == work)
        reached = {name: gflop / timing.median for name, timing in timings.items()}
        found = {name: f"{rate:.{0 if rate >= 1 else 2}f}" for name, rate in reached.items()}
        cells = [found.get(name, missing.get(name, "not installed")) for name in names]
        lines.append(f"| {work} | {' | '.join(cells)} |")
    return "\n".join(lines)


def staged(rows: Sequence[Mapping[str, Any]]) -> str:
    """The table of one goal of startup.py, or of one network of memory.py, as they print it."""
    if "network" in rows[0]:
        return memory.report(
            {row["name"]: row.get("mebibytes", row.get("missing")) for row in rows}
        )
    found = {
        row["name"]: row["missing"]
        if "missing" in row
        else {**row["stages"], "total": row["seconds"]}
        for row in rows
    }
    return startup.report(rows[0]["goal"], found)


def parts(rows: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Timing], dict[str, str]]:
    """The timings of a table's rows, and the reasons of those that are missing."""
    timings = {
        row["name"]: Timing(row["name"], tuple(row["seconds"])) for row in rows if "seconds" in row
    }
    return timings, {row["name"]: row["missing"] for row in rows if "missing" in row}


def heading(row: Mapping[str, Any]) -> tuple[str, ...]:
    """What a row's line is called: its title, or else its facts."""
    if "title" in row:
        return (str(row["title"]),)
    return tuple(f"{key} {value}" for key, value in row.items() if key not in _FIGURES)


if __name__ == "__main__":
    main()
