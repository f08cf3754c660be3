"""`report.html`: a whole run on one self-contained page."""

import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from shlex import quote
from typing import Any, Final, final

import torch

from asyndgan import __version__
from asyndgan.data import Case
from asyndgan.errors import RunError
from asyndgan.recipe import Recipe
from asyndgan.reports.audited import MEANING, Audited, guarantee, read_audited
from asyndgan.reports.curves import loss_charts, presence, reminding_chart, traffic_chart
from asyndgan.reports.found import is_of_generator
from asyndgan.reports.gallery import build_gallery
from asyndgan.reports.page import COLOURS, write_page
from asyndgan.reports.traffic import Traffic, read_traffic
from asyndgan.reports.usefulness import Usefulness, read_usefulness
from asyndgan.reports.words import amount, counted, duration, sentence, size, together
from asyndgan.runs import RunFacts, RunFolder
from asyndgan.runs.trial import NO_RESULT, trial_of
from asyndgan.training.checkpoint import read

_SIMULATED: Final = ("inprocess", "processes")
UNLIKE: Final = (
    ", or others that are unlike the members made it seem so: audit with suitable others first"
)
"""What else may explain an alarm on groups that are unlike."""
MANY: Final = 6
"""Largest number of sites that are all named."""


@final
@dataclass(frozen=True)
class Tile:
    """A number that is printed large.

    Attributes:
        value: the number, as text.
        label: what it is.
        note: further detail.
    """

    value: str
    label: str
    note: str


@final
@dataclass(frozen=True)
class Notice:
    """A notice to the reader of the page.

    Attributes:
        title: a few words.
        text: one or two sentences.
        grave: whether to highlight it.
    """

    title: str
    text: str
    grave: bool = False


def write_report(
    run: RunFolder,
    out: Path,
    *,
    synthetic: Sequence[Case],
    real: Mapping[str, Sequence[Case]] | None = None,
    evaluation: Path | None = None,
    audits: Sequence[Path] = (),
    title: str | None = None,
    folders: Mapping[str, Path] | None = None,
) -> Path:
    """Writes a page about a run: images, usefulness, training, traffic, attacks and recipe.

    Args:
        run: the run, finished or not.
        out: the file to write.
        synthetic: cases to choose from, named after their site (`north-m00012`).
        real: real cases by site, shown beside the synthetic ones. They become part of the file, so
            pass them only for phantoms, or if the sites allow it.
        evaluation: folder that contains evaluation.json and optionally examples.png.
            The examples show real patients, so they are included only if `real` is given.
        audits: folders that contain audit.json and nearest.png; the latter shows real patients too.
        title: title of the page; by default it tells the number of sites.
        folders: folders of sites' data, which the page's commands name.

    Returns:
        `out`.

    Raises:
        RunError: `run` is no run folder, or `evaluation` or one of `audits` is not of this run.
    """
    page = _page(run, synthetic, real or {}, evaluation, audits, title)
    page |= _commands(run, run.facts(), folders or {})
    return write_page("report.html.jinja", page, out)


def _page(
    run: RunFolder,
    synthetic: Sequence[Case],
    real: Mapping[str, Sequence[Case]],
    evaluation: Path | None,
    audits: Sequence[Path],
    title: str | None,
) -> dict[str, Any]:
    """The variables of the template."""
    facts, recipe, records = run.facts(), run.recipe(), run.metrics()
    if facts.engine == "fedgan":
        raise RunError(
            f"{run.path} is a run of FedGAN, in which weights travel; this page would tell of "
            "feedback. The page of its suite has its figures."
        )
    numbers = {site: place for place, site in enumerate(facts.sites)}
    labels = {int(number): name for number, name in facts.labels.items()}
    gallery = build_gallery(synthetic, real, list(numbers), labels)
    if evaluation and not is_of_generator(
        evaluation / "evaluation.json", facts.generator_sha256, "about"
    ):
        raise RunError(
            f"{evaluation} judges another generator than that of {run.path}; name the evaluation "
            "of this run, or make it with 'asyndgan evaluate'."
        )
    useful = read_usefulness(evaluation, examples=bool(real)) if evaluation else None
    traffic = read_traffic(facts, recipe, records, numbers, _kept_masks(run))
    weights = _generator(run, facts)
    audited = read_audited(run, audits, shown=real)
    return {
        "title": title or _title(facts),
        "name": run.path.resolve().name,
        "name_in_commands": quote(str(run.path)),
        "trial": trial_of(facts, recipe),
        "no_result": NO_RESULT,
        "lead": _lead(facts, recipe),
        "facts": facts,
        "recipe": recipe,
        "numbers": numbers,
        "colours": COLOURS,
        "tiles": tuple(_tiles(facts, recipe, traffic, weights)),
        "notices": tuple(_notices(facts, recipe, useful, audited, gallery.has_real)),
        "gallery": gallery,
        "useful": useful,
        "charts": ((*loss_charts(records, numbers), *reminding_chart(records)) if records else ()),
        "presence": presence(records, numbers) if records else (),
        "waited": sum(not record.get("updated", True) for record in records),
        "news": [(record["step"], line) for record in records for line in record.get("news", ())],
        "length": counted(len(records), "step"),
        "last_step": amount(records[-1]["step"]) if records else "",
        "traffic": traffic,
        "bytes_chart": traffic_chart(records) if records else None,
        "audited": audited,
        "meaning": MEANING,
        "guarantee": guarantee(recipe),
        "provenance": _provenance(facts, weights),
        "recipe_text": recipe.to_toml(comments=False),
    }


def _title(facts: RunFacts) -> str:
    return f"One generator, {counted(len(facts.sites), 'site')}"


def _lead(facts: RunFacts, recipe: Recipe) -> str:
    sites = sentence(counted(len(facts.sites), "site"))
    painted = {"mask": "from the sites' masks", "class": "of the sites' classes", "none": ""}
    return " ".join(
        f"{sites} trained one image generator together, and no site sent an image. A coordinator "
        f"painted synthetic images {painted[recipe.condition.kind]}; at each site a discriminator, "
        "which never leaves it, compared them with the site's own images and answered with "
        "feedback: how the synthetic ones should change. The generator now paints "
        f"{together(facts.modalities) if facts.modalities else 'images'} without asking the sites "
        "again.".split()
    )


def _commands(run: RunFolder, facts: RunFacts, folders: Mapping[str, Path]) -> dict[str, str]:
    """Commands whose results the next report finds by itself, with paths as the user named them."""
    path, few = quote(str(run.path)), len(facts.sites) <= MANY
    named = {site: folders.get(site, "FOLDER") for site in facts.sites}
    options = [f"--site {quote(f'{site}={folder}')}" for site, folder in named.items()]
    sites = " ".join(
        options if few or folders.keys() >= named.keys() else ["--site NAME=FOLDER ..."]
    )
    held_out = run.recipe().training.hold_out
    test, holdout = ("", "") if held_out else ("--test FOLDER ", "--holdout FOLDER ")
    states = "" if facts.engine in _SIMULATED else "--state NAME=FOLDER ... "
    judged, tried = (quote(str(run.path / name)) for name in ("evaluation", "audit"))
    return {
        "evaluate": f"asyndgan evaluate {path} {sites} {test}--out {judged}",
        "audit": f"asyndgan audit {path} {sites} {holdout}{states}--out {tried}",
        "show_real": f"asyndgan report {path} {next(iter(options), '--site NAME=FOLDER')}",
    }


@final
@dataclass(frozen=True)
class _Generator:
    """The file of the averaged generator; all zero or empty if there is none."""

    parameters: int = 0
    bytes: int = 0
    sha256: str = ""


def _generator(run: RunFolder, facts: RunFacts) -> _Generator:
    if not (facts.generator_sha256 and run.generator_file.exists()):
        return _Generator()
    tensors, _ = read(run.generator_file)
    parameters = sum(tensor.numel() for tensor in tensors.values())
    return _Generator(parameters, run.generator_file.stat().st_size, run.generator_digest())


def _tiles(
    facts: RunFacts, recipe: Recipe, traffic: Traffic, generator: _Generator
) -> Iterator[Tile]:
    cases = sum(int(about["cases"]) for about in facts.sites.values())
    planned = recipe.training.steps
    yield Tile(amount(len(facts.sites)), "sites", _named(list(facts.sites)))
    yield Tile(
        amount(cases),
        "pictures or slices at the sites",
        "no message of a site has a place for an image",
    )
    yield Tile(
        amount(facts.steps),
        "steps",
        f"in {duration(facts.seconds)}"
        if facts.steps == planned
        else f"of {amount(planned)}, in {duration(facts.seconds)}",
    )
    yield Tile(traffic.left_step, "left a site each step", f"{traffic.left_total} in all")
    if generator.bytes:
        yield Tile(
            _rounded(generator.parameters),
            "weights in the generator",
            f"{size(generator.bytes)}, {generator.sha256[:12]}",
        )


def _named(sites: Sequence[str]) -> str:
    """The sites' names; if there are many, the first ones and the number of others."""
    if len(sites) > MANY:
        sites = [*sites[: MANY - 1], f"{len(sites) - MANY + 1} more"]
    return together(sites) if sites else "none"


def _rounded(number: int) -> str:
    """A rounded count: 2.3 M."""
    for unit, scale in (("M", 1e6), ("k", 1e3)):
        if number >= scale:
            value = number / scale
            return f"{value:.0f} {unit}" if value >= 100 else f"{value:.1f} {unit}"
    return str(number)


def _notices(
    facts: RunFacts,
    recipe: Recipe,
    useful: Usefulness | None,
    audited: Sequence[Audited],
    has_real: bool,
) -> Iterator[Notice]:
    if facts.state != "finished":
        yield Notice(
            "Not finished",
            f"This run is {facts.state}, {facts.steps} of {recipe.training.steps} steps done. "
            "Every figure here is of what there is so far.",
            grave=True,
        )
    shown = any(one.picture for one in audited)
    if has_real or shown or (useful and useful.examples):
        where = [
            *(["beside the synthetic ones (the page was made with --site)"] if has_real else []),
            *(["as examples of the comparison"] if useful and useful.examples else []),
            *(["beside their nearest synthetic ones"] if shown else []),
        ]
        yield Notice(
            "Real images inside",
            f"They stand {together(where)}. Pass this file on only if they may be seen: phantoms, "
            "public data, or with the consent of those who hold them.",
            grave=True,
        )
    if recipe.loss.paired_l1:
        yield Notice(
            "Feedback of this recipe can give real pixels away",
            "It compares with the real image of the same mask. A coordinator that is not trusted "
            "could read pixels from it; see \u201cWhat moved\u201d.",
            grave=True,
        )
    if learned := sum(one.learned for one in audited):
        unlike = UNLIKE if any(one.unlike for one in audited if one.learned) else ""
        yield Notice(
            "Not every attack failed",
            f"In {counted(learned, 'attack')} the attacker learned something of patients{unlike}; "
            "see \u201cAttacks\u201d.",
            grave=True,
        )
    if undecided := sum(one.undecided for one in audited):
        yield Notice(
            "Not every attack says something",
            f"{sentence(counted(undecided, 'attack'))} had too few patients or only a weak sign, "
            "or attacked a trial run, or others that are unlike the members, so it is unknown "
            "whether the attacker learned something; see \u201cAttacks\u201d.",
            grave=True,
        )
    if facts.engine in _SIMULATED:
        yield Notice(
            "Simulated sites",
            f"All sites ran on one machine (engine \u201c{facts.engine}\u201d). The messages and "
            "their bytes are those that would travel, but no network lay between them.",
        )
    if useful and useful.judged_on != "test":
        yield Notice(
            "Judged on validation patients",
            "The comparison used patients held out of the sites, as one does to choose a recipe. "
            "It is no final result.",
        )


def _kept_masks(run: RunFolder) -> int:
    folder = run.masks / "labelsTr"
    return sum(1 for _ in folder.glob("*.png")) if folder.is_dir() else 0


def _started(facts: RunFacts) -> Iterator[tuple[str, str]]:
    if start := facts.start:
        yield "Started from", f"{start['run']}, generator {start['generator_sha256']}"
        yield "Of its generator", start["took"]


def _provenance(facts: RunFacts, generator: _Generator) -> tuple[tuple[str, str], ...]:
    stored, found = facts.generator_sha256, generator.sha256
    if not stored:
        hash_of_file = "none yet"
    elif not found:
        hash_of_file = f"{stored} (the file is not there)"
    elif stored == found:
        hash_of_file = f"{stored} (checked: it is that of the file)"
    else:
        hash_of_file = f"{stored}, BUT THE FILE HAS {found}"
    return (
        ("Run", facts.run),
        ("State", f"{facts.state}, {amount(facts.steps)} steps, engine {facts.engine}"),
        *_started(facts),
        ("Recipe, SHA-256", facts.recipe_digest),
        ("Generator, SHA-256", hash_of_file),
        ("Trained with", f"asyndgan {facts.version}"),
        (
            "Page made with",
            f"asyndgan {__version__}, PyTorch {torch.__version__}, "
            f"Python {platform.python_version()}",
        ),
        ("Page made on", f"{datetime.now(UTC):%d %B %Y, %H:%M} UTC".lstrip("0")),
    )
