"""`report.html`: a whole run on one self-contained page."""

import platform
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from shlex import quote
from typing import Any, Final, NamedTuple

import torch

from asyndgan import __version__
from asyndgan.auditing.reconstruction import not_asked
from asyndgan.errors import RunError
from asyndgan.judging.asked import newest_evaluations
from asyndgan.painting.synthesise import PAINTING_VERSION
from asyndgan.recipe import Recipe
from asyndgan.reports.audited import MEANING, figures_of, guarantee, read_audited
from asyndgan.reports.charts import loss_charts, presence, traffic_chart
from asyndgan.reports.gallery import build_gallery
from asyndgan.reports.page import write_page
from asyndgan.reports.usefulness import usefulness_of
from asyndgan.reports.words import DASH, amount, counted, duration, size, together
from asyndgan.runs import RunFacts, RunFolder
from asyndgan.runs.following import SIMULATED, judging_options
from asyndgan.runs.trial import NO_RESULT, trial_of
from asyndgan.store import Case
from asyndgan.training.checkpoint import read
from asyndgan.wire.messages import CASES_WITHHELD, Judge, Judgement

Counts = Mapping[str, Mapping[str, int]]
"""Bytes by site and kind of message."""

MANY: Final = 6
"""Largest number of sites that are all named."""


def write_report(
    run: RunFolder,
    out: Path,
    *,
    synthetic: Sequence[Case],
    real: Mapping[str, Sequence[Case]] | None = None,
    evaluation: Path | None = None,
    audits: Sequence[Path] = (),
    folders: Mapping[str, Path] | None = None,
) -> Path:
    """Writes a page about a run: images, usefulness, training, traffic, attacks and recipe.

    Synthetic cases are named after their site (`north-m00012`). Real cases stand beside them and
    become part of the file, as then do examples.png and nearest.png of evaluation and audits, which
    show patients. Raises `RunError` if `run` is no run folder, or `evaluation` or one of `audits`
    is not of this run.
    """
    facts, recipe, records, real = run.facts(), run.recipe(), run.metrics(), real or {}
    if facts.engine == "fedgan":
        raise RunError(
            f"{run.path} is a run of FedGAN, in which weights travel; this page would tell of "
            "feedback. The page of its suite has its figures."
        )
    numbers = {site: place for place, site in enumerate(facts.sites)}
    labels = {int(number): name for number, name in facts.labels.items()}
    gallery = build_gallery(synthetic, real, list(numbers), labels)
    traffic = _traffic(facts, records)
    generator = facts.generator_sha256
    found = run.generator_digest() if generator and run.generator_file.exists() else ""
    useful = evaluation and usefulness_of(evaluation, generator, examples=bool(real))
    page = {
        "title": f"One generator, {counted(len(facts.sites), 'site')}",
        "name": run.path.resolve().name,
        "name_in_commands": quote(str(run.path)),
        "trial": trial_of(facts, recipe),
        "no_result": NO_RESULT,
        "facts": facts,
        "recipe": recipe,
        "numbers": numbers,
        "tiles": list(_tiles(run, facts, recipe, traffic, found)),
        "simulated": facts.engine in SIMULATED,
        "gallery": gallery,
        "useful": useful,
        "at_sites": newest_evaluations(run),
        "records": records,
        "charts": loss_charts(records, numbers) if records else [],
        "presence": presence(records, list(numbers)) if records else {},
        "news": [(record["step"], line) for record in records for line in record.get("news", ())],
        "traffic": traffic,
        "kept_masks": sum(1 for _ in (run.masks / "labelsTr").glob("[!.]*")),
        "bytes_chart": traffic_chart(records) if records else None,
        "audited": read_audited(run, audits, shown=real),
        "meaning": MEANING,
        "painting_version": PAINTING_VERSION,
        "not_asked": not_asked(run),
        "figures_of": figures_of,
        "guarantee": guarantee(recipe),
        "provenance": list(_provenance(facts, found)),
        "recipe_text": recipe.to_toml(comments=False),
        **_commands(run, facts, folders or {}),
    }
    return write_page("report.html.jinja", page, out)


class Traffic(NamedTuple):
    """Content of the page's section on traffic: bytes by site and kind of message, and texts.

    `silent` are sites that answered without losses.
    """

    left: Counts
    came: Counts
    left_step: str
    came_step: str
    steps: dict[str, str]
    losses: bool
    silent: list[str]


def _traffic(facts: RunFacts, records: Sequence[Mapping[str, Any]]) -> Traffic:
    """Summarises the traffic that a run counted, by the records of its steps."""
    left, came = facts.left_sites, facts.came_to_sites
    answered = {
        site: sum(site in record["losses"] for record in records)
        for site in {**facts.sites, **facts.spared}
    }
    reported = {site for record in records for site, own in record["losses"].items() if own}
    return Traffic(
        left,
        came,
        _a_step(left, Judgement.kind, answered),
        _a_step(came, Judge.kind, answered),
        {site: _a_step(left, Judgement.kind, {site: count}) for site, count in answered.items()},
        bool(reported),
        [site for site, count in answered.items() if count and site not in reported],
    )


def _a_step(counts: Counts, kind: str, answered: Mapping[str, int]) -> str:
    steps = sum(answered.values())
    spent = sum(counts.get(site, {}).get(kind, 0) for site in answered)
    return size(spent / steps) if steps else DASH


def _commands(run: RunFolder, facts: RunFacts, folders: Mapping[str, Path]) -> dict[str, str]:
    """Commands whose results the next report finds by itself, with paths as the user named them."""
    path, few = quote(str(run.path)), len(facts.sites) <= MANY
    named = {site: folders.get(site, "FOLDER") for site in facts.sites}
    options = [f"--site {quote(f'{site}={folder}')}" for site, folder in named.items()]
    sites = " ".join(
        options if few or folders.keys() >= named.keys() else ["--site NAME=FOLDER ..."]
    )
    words = judging_options(run.recipe(), facts.engine, sites, "FOLDER")
    judged, tried = (quote(str(run.path / name)) for name in ("evaluation", "audit"))
    return {
        "evaluate": f"asyndgan evaluate {path} {words['evaluate']} --out {judged}",
        "audit": f"asyndgan audit {path} {words['audit']} --out {tried}",
        "show_real": f"asyndgan report {path} {next(iter(options), '--site NAME=FOLDER')}",
    }


def _tiles(
    run: RunFolder, facts: RunFacts, recipe: Recipe, traffic: Traffic, digest: str
) -> Iterator[tuple[str, str, str]]:
    """Numbers to print large, as text, with what they are and further detail.

    `digest` is that of the generator's file; empty: there is none.
    """
    named = list(facts.sites)
    if len(named) > MANY:
        named = [*named[: MANY - 1], f"{len(named) - MANY + 1} more"]
    yield amount(len(facts.sites)), "sites", together(named) if named else "none"
    cases = [int(about["cases"]) for about in facts.sites.values()]
    told = [number for number in cases if number != CASES_WITHHELD]
    but = f"; {len(cases) - len(told)} withhold their number" if len(told) < len(cases) else ""
    no_image = "no message of a site has a place for an image"
    what = "volumes" if recipe.image.whole else "pictures or slices"
    yield amount(sum(told)), f"{what} at the sites{but}", no_image
    planned = recipe.training.steps
    of = "" if facts.steps == planned else f"of {amount(planned)}, "
    yield amount(facts.steps), "steps", f"{of}in {duration(facts.seconds)}"
    total = sum(sum(kinds.values()) for kinds in traffic.left.values())
    yield traffic.left_step, "left a site each step", f"{size(total)} in all"
    if digest:
        tensors, _ = read(run.generator_file)
        weights = sum(tensor.numel() for tensor in tensors.values())
        about = f"{size(run.generator_file.stat().st_size)}, {digest[:12]}"
        yield _rounded(weights), "weights in the generator", about


def _rounded(number: int) -> str:
    """A rounded count: 2.3 M."""
    for unit, scale in (("M", 1e6), ("k", 1e3)):
        if number >= scale:
            value = number / scale
            return f"{value:.0f} {unit}" if value >= 100 else f"{value:.1f} {unit}"
    return str(number)


def _provenance(facts: RunFacts, digest: str) -> Iterator[tuple[str, str]]:
    yield "Run", facts.run
    yield "State", f"{facts.state}, {amount(facts.steps)} steps, engine {facts.engine}"
    if start := facts.start:
        yield "Started from", f"{start['run']}, generator {start['generator_sha256']}"
        yield "Of its generator", start["took"]
    yield "Recipe, SHA-256", facts.recipe_digest
    stored = facts.generator_sha256
    if not digest:
        said = f"{stored} (the file is not there)" if stored else "none yet"
    elif stored == digest:
        said = f"{stored} (checked: it is that of the file)"
    else:
        said = f"{stored}, BUT THE FILE HAS {digest}"
    yield "Generator, SHA-256", said
    yield "Trained with", f"asyndgan {facts.version}"
    made = f"PyTorch {torch.__version__}, Python {platform.python_version()}"
    yield "Page made with", f"asyndgan {__version__}, {made}"
    yield "Page made on", f"{datetime.now(UTC):%d %B %Y, %H:%M} UTC".lstrip("0")
