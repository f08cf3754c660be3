"""Figures of `lab.benchmark` as tables."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from lab.experiments.common import markdown

Found = Any
"""A part of lab/results/performance.json."""

SITES = 4
"""Number of sites of the estimate."""


def estimate(results: Mapping[str, Any]) -> dict[str, Any]:
    """What painting the next step while sites judge this one could save; nothing does it yet.

    An estimate from measured parts of `default` at 64 pixels, each party on a core of its own: a
    step takes the coordinator's time for all sites, a site's time and what the link adds; if they
    overlapped, the longer of both. Images would then be judged one step late.
    """
    (row,) = (
        row
        for row in results["recipes"]["found"]["rows"]
        if (row["recipe"], row["pixels"]) == ("default", 64)
    )
    of_links = results["links"]["found"]["tiny"]["s"]
    own = SITES * (row["CPU s"]["paint"] + row["CPU s"]["update"])
    found = {}
    for name, seconds in of_links.items():
        added = max(0.0, seconds["median"] - of_links["no delay"]["median"])
        others = row["CPU s"]["judge"] + row["CPU s"]["code"] + added
        found[name] = {"s a step": own + others, "s a step if overlapped": max(own, others)}
    return found


def _sites(found: Found) -> str:
    least = min(found["default"], key=lambda row: row["sites"])
    rows = [
        [
            row["sites"], f"{row['MB peak']:.0f}", f"{row['MB peak'] / least['MB peak']:.2f}",
            f"{row['CPU s a step']:.2f}", f"{row['CPU s a step'] / row['sites']:.3f}",
            f"{row['CPU s a step, all sites'] / row['sites']:.3f}",
        ]
        for row in found["default"]
    ]  # fmt: skip
    many = [
        [
            f"{row['sites']:,}", how, row["steps"], row["updates"], f"{row['took part']:,}",
            f"{row['MB peak']:.0f}", f"{row['CPU s a step']:.2f}",
            f"{row['CPU s a step, all sites']:.2f}",
        ]
        for how, each in (("each in every step", found["all"]), ("in turns", [found["turns"]]))
        for row in each
    ]  # fmt: skip
    return "\n\n".join([
        markdown(["sites", "peak MB", f"ratio to {least['sites']}", "CPU s a step",
                  "CPU s a step and site", "the same, of the site"], rows),
        markdown(["sites", "take part", "steps", "updates", "sites that took part", "peak MB",
                  "CPU s a step", "CPU s a step, all sites"], many),
    ])  # fmt: skip


def _federation(found: Found) -> str:
    kinds = list(found[0]["MB"])
    rows = [
        [
            row["sites"], row["took part"], row["processes"],
            *(f"{row['MB'][kind]:.0f}" for kind in kinds), f"{sum(row['MB'].values()):.0f}",
            f"{row['connected after s']:.0f}", f"{row['s a step']:.2f}",
        ]
        for row in found
    ]  # fmt: skip
    return markdown(
        ["sites", "took part", "processes", *(f"{kind}, MB" for kind in kinds), "all, MB",
         "connected after s", "s a step"], rows,
    )  # fmt: skip


def _links(found: Found) -> str:
    rows = [
        [
            networks, name, f"{row['least']:.2f}", f"{row['median']:.2f}",
            f"{row['median'] - of['s']['no delay']['median']:+.2f}",
            f"{row['median'] / of['s']['no delay']['median']:.2f}", row["steps"],
        ]
        for networks, of in found.items()
        for name, row in of["s"].items()
    ]  # fmt: skip
    heading = ["networks", "link", "least s a step", "median", "added", "ratio", "steps"]
    return markdown(heading, rows)


def _estimate(found: Found) -> str:
    rows = [
        [name, f"{row['s a step']:.2f}", f"{row['s a step if overlapped']:.2f}",
         f"{1 - row['s a step if overlapped'] / row['s a step']:.0%}"]
        for name, row in found.items()
    ]  # fmt: skip
    return markdown(["link", "s a step", "s a step if overlapped", "could be saved"], rows)


def _recipes(found: Found) -> str:
    rows = []
    for row in found["rows"]:
        parts = row["CPU s"]
        reached = row["generator's floating point operations"] / (parts["paint"] + parts["update"])
        rows.append([
            f"`{row['recipe']}`", row["pixels"], row["batch"],
            *(f"{parts[part]:.3f}" for part in ("paint", "judge", "code", "update")),
            f"{reached / found['peak']:.0%}", f"{row['bytes'] / 1000:.0f}",
            f"{row['bytes in float32'] / row['bytes']:.1f}",
        ])  # fmt: skip
    heading = ["recipe", "pixels", "images", "paint", "judge", "encode and decode", "update",
               "of peak", "kB", "float32 is times"]  # fmt: skip
    return f"Peak: {found['peak'] / 1e9:.0f} GFLOP a second.\n\n{markdown(heading, rows)}"


def _cores(found: Found) -> str:
    rows = []
    for recipe, sites in dict.fromkeys((row["recipe"], row["sites"]) for row in found):
        alike = [row for row in found if (row["recipe"], row["sites"]) == (recipe, sites)]
        one, two = (min(row["least s"] for row in alike if row["cores"] == n) for n in (1, 2))
        rows.append([f"`{recipe}`", sites, f"{one:.2f}", f"{two:.2f}", f"{one / two:.2f}"])
    return markdown(["recipe", "sites", "s a step on one core", "on two", "times faster"], rows)


def _starts(found: Found) -> str:
    training = found["training"]
    what = f"`asyndgan train` with {training['cases']:,} cases, one tiny step"
    timed = found["commands"] | {
        f"{what}, {when} time": training[when] for when in ("first", "second", "third")
    }
    rows = [[name, f"{row['s']:.2f}", f"{row['CPU s']:.2f}"] for name, row in timed.items()]
    return markdown(["command", "least s", "least CPU s"], rows)


def _cases(found: Found) -> str:
    rows = [
        [
            f"{row['cases']:,}", when, f"{row['MB of its own']:.0f}", f"{row['MB mapped']:.0f}",
            f"{row['CPU s']:.1f}",
        ]
        for pair in found
        for when, row in pair.items()
    ]  # fmt: skip
    return markdown(["cases", "time", "MB of its own", "MB mapped", "CPU s to load"], rows)


_TABLES: dict[str, Callable[[Found], str]] = {
    "sites": _sites, "federation": _federation, "links": _links, "recipes": _recipes,
    "cores": _cores, "starts": _starts, "cases": _cases,
}  # fmt: skip


def _under(part: Mapping[str, Any]) -> str:
    before, after = part["load before and after"]
    return (
        f"{part['about']}; measured on {part['cores']} of the cores in {part['took s']} s; load "
        f"{before} before and {after} after."
    )


def tables_of(results: Mapping[str, Any]) -> dict[str, str]:
    """Markdown of each part that was measured, and of the estimate, by its name in the document."""
    parts: Iterable[str] = (part for part in _TABLES if part in results)
    found = {
        f"performance {part}": f"{_TABLES[part](results[part]['found'])}\n\n{_under(results[part])}"
        for part in parts
    }
    if "estimate" in results:
        found["performance estimate"] = _estimate(results["estimate"])
    return found
