"""`asyndgan federation`: commands for the coordinator's administrator."""

import json
import shutil
import sys
import tempfile
import time
from pathlib import Path
from shlex import quote
from typing import Annotated, Any, get_args

import typer

from asyndgan.cli.evaluate import EvaluationDisplay
from asyndgan.cli.following import tell_lacking
from asyndgan.cli.help import Commands
from asyndgan.cli.options import (
    AsJson,
    Count,
    NewFolder,
    NoBrowser,
    Overrides,
    Port,
    RecipeName,
    SafetyNumber,
    StartOption,
    print_json,
)
from asyndgan.cli.plan import as_values, refuse_old, tell_plan, write_new
from asyndgan.cli.serving import log_to, serve_page
from asyndgan.cli.site import first_policy
from asyndgan.cli.terminal import Terminal, have_compared
from asyndgan.engines.federation import federation_in, flare_part
from asyndgan.errors import RunError
from asyndgan.models.budgets import SegmentationBudget
from asyndgan.privacy.policy import ASKED
from asyndgan.recipe import Recipe
from asyndgan.reports.standing import Standing
from asyndgan.runs import load_recipe
from asyndgan.runs.signals import told_to_end

federation = Commands(
    """Runs a federation between real machines, as its coordinator.

    Example:
        asyndgan federation init fed --host example.org
        asyndgan federation add fed north.csr
        asyndgan federation start fed
        asyndgan federation submit fed default
        asyndgan federation status fed
    """
)
LOOK_S = 0.5
"""Seconds between two looks whether a run's sites have sent their cards."""

Folder = Annotated[
    Path, typer.Argument(metavar="FOLDER", help="Folder of the federation on this machine.")
]
SiteName = Annotated[str, typer.Argument(metavar="SITE", help="Name of the site.")]


@federation.command()
def init(
    folder: Folder,
    host: Annotated[str, typer.Option()],
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8002,
) -> None:
    """Makes a federation, with the key that signs its sites' certificates.

    Example:
        asyndgan federation init fed --host example.org

    Network:
        --host HOST: Host name of this machine for the sites.
        --port N: The only TCP port that the sites use.
    """
    made = flare_part("kits").init_federation(folder, host=host, port=port)
    named = quote(str(folder))
    for line in (
        f"Federation in {folder}. Its keys can make members: guard them.",
        "1. At each site: asyndgan site request NAME. It makes NAME.csr to send to you.",
        f"2. Here, for each of them: asyndgan federation add {named} NAME.csr",
        f"3. Have IT let port {port} of {host} in from the sites (TCP, mutual TLS).",
        f"4. Here: asyndgan federation start {named}",
        f"Safety number of this federation, which its sites will ask for: {made.safety_number}",
    ):
        Terminal().say(line)


@federation.command()
def add(
    folder: Folder,
    request: Annotated[
        Path, typer.Argument(metavar="REQUEST", help="The file NAME.csr that the site sent.")
    ],
    safety_number: SafetyNumber = None,
) -> None:
    """Signs a site's request and makes its kit, which holds no secret.

    First call the site's administrator, to compare the request's safety number. The site may join a
    run in progress.

    Example:
        asyndgan federation add fed north.csr

    Safety:
        --safety-number DIGITS: What the site's administrator reads out. You are asked to compare
            it if you leave it out.
    """
    kits, console = flare_part("kits"), Terminal()
    made, asked = kits.Federation.of(folder), flare_part("member").read_request(request)
    have_compared(
        f"the request of site {asked.name}", asked.safety_number, safety_number, "its administrator"
    )
    made = kits.add_site(made, asked)
    for line in (
        f"1. Send the site its kit, which holds no secret: {made.kit(asked.name)}",
        f"2. Read out to its administrator the federation's safety number: {made.safety_number}",
        f"3. There: asyndgan site init {asked.name} {asked.name}.json    asks for the data; "
        "'renew' in place of 'init' if it had a kit before",
        f"     asyndgan site check {asked.name}",
        f"     asyndgan site start {asked.name}",
    ):
        console.say(line)


@federation.command()
def remove(folder: Folder, site: SiteName) -> None:
    """Excludes a site from all runs, and its key from this federation.

    FLARE's server sends the site away. What the generator has learned from the site stays.

    Example:
        asyndgan federation remove fed south
    """
    kits = flare_part("kits")
    kits.remove_site(kits.Federation.of(folder), site)
    Terminal().say(
        f"{site} is left out, and its key is not added again. To add it with another key, remove "
        f"site.key there and call 'asyndgan site request {site}'."
    )


@federation.command()
def renew(folder: Folder) -> None:
    """Renews certificates and kits before they expire, for the same keys.

    Example:
        asyndgan federation renew fed
    """
    kits, console = flare_part("kits"), Terminal()
    made = kits.Federation.of(folder)
    kits.renew(made)
    console.say(f"1. End 'asyndgan federation start {quote(str(folder))}', and start it again.")
    console.say("2. Send each site its new kit, which holds no secret; there, take it and restart:")
    for site in made.sites:
        console.say(f"     {made.kit(site)}    asyndgan site renew {site} {site}.json")


@federation.command()
def start(folder: Folder, device: str = "cpu") -> None:
    """Serves the sites and trains submitted runs until Ctrl-C. Run it as a service.

    Example:
        asyndgan federation start fed
    """
    told = told_to_end()  # before seconds of imports, in which a service may be ended
    kits = flare_part("kits")
    from asyndgan.models.parts import usable_device
    from asyndgan.runs.federated import serve

    made = kits.Federation.of(folder)
    for file, remedy in (
        ("rootCA.pem", f"init NEW --host {made.host}' and add every site again."),
        ("server.crt", f"renew {quote(str(folder))}'."),
    ):
        found = flare_part("checks").certificate(made.server_kit / "startup" / file)
        if not found.fine:
            Terminal().say(f"{file}: {found.text}. Use 'asyndgan federation {remedy}")
    log_to(folder / "federation.log", shown=True)
    Terminal().say(
        f"Serving {', '.join(made.sites) or 'no site yet'} at {made.host}:{made.port}; what "
        f"happens is in {folder / 'federation.log'}, of each run in its coordinator.log."
    )
    serve(made, stop=told, device=str(usable_device(device)))


@federation.command()
def plan(
    folder: Folder,
    out: Annotated[Path, typer.Option()],
    overrides: Overrides = None,
    site: list[str] | None = None,
    as_json: AsJson = False,
) -> None:
    """Plans a recipe from the fingerprints that sites send.

    A site sends one if its site.toml names it and its policy lets it out. 'federation start' has to
    be running, and no run.

    Example:
        asyndgan federation plan fed --out recipe.toml

    Output:
        --out FILE: New file for the recipe, with the reasons as comments.

    Sites:
        --site NAME: Plan for this site. By default for all sites with a kit.
    """
    from asyndgan.runs.described import described
    from asyndgan.runs.planned import planned_from

    refuse_old(out)
    found = described(federation_in(folder), site or ())
    console = Terminal(stderr=as_json)
    made = planned_from(found, overrides or [])
    tell_plan(console, made)
    if as_json:
        print_json(as_values(made))
    write_new(out, made.to_toml())
    console.say(
        f"Written to {out}: asyndgan federation submit {quote(str(folder))} {quote(str(out))}"
    )


@federation.command()
def submit(
    folder: Folder,
    recipe: RecipeName,
    overrides: Overrides = None,
    run: str | None = None,
    site: list[str] | None = None,
    yes: Annotated[bool, typer.Option("--yes")] = False,
    start: StartOption = None,
    masks: Annotated[Path | None, typer.Option("--masks", exists=True)] = None,
) -> None:
    """Submits a run and asks you to confirm what it paints. Resumes a stopped run.

    Example:
        asyndgan federation submit fed default --run first

    Run:
        --run NAME: Name of the run. By default the name of the recipe.
        --site NAME: Only the sites named take part, and the run begins when they are there. By
            default all sites with a kit, and those that are added later.
        --yes: Confirm in advance, whatever the sites declare in their cards.
        --masks FOLDER: Data set of public or generated masks, on this machine, to paint from
            instead of the patients' masks. Needs masks.source=given. By default the sites teach a
            generator of masks first, in run NAME-masks.
    """
    from asyndgan.runs.order import Order

    resolved = load_recipe(recipe, overrides or [])
    name = _run_name(run, resolved)
    made = federation_in(folder)
    order = Order.submit(made, name, resolved, tuple(site or ()), yes=yes, start=start, masks=masks)
    Terminal().say(f"Run {order.name} is ordered: asyndgan federation status {quote(str(folder))}")
    tell_lacking(Terminal(), resolved, masks=resolved.keeps_masks or resolved.given_masks)
    if order.first and not order.begun():
        steps = order.first.folder.recipe().training.steps
        about = f"{steps:,} steps in which the sites teach a generator of masks"
        Terminal().say(f"Before it, run {order.first.name}: {about}.")
    for one in (order.first, order):
        if one and not one.begun():
            _tell_policies(one)
        if one and not yes and not one.begun():
            _have_confirmed(one, ask=sys.stdin.isatty() and (one is not order or not order.first))


@federation.command()
def audit(
    folder: Folder,
    run: str | None = None,
    site: list[str] | None = None,
    masks: Path | None = None,
    fade: list[str] | None = None,
    as_json: AsJson = False,
) -> None:
    """Has sites attack what a finished run paints, each with its own patients.

    A site answers with rounded figures, as often as its policy allows (leaves.audits). They are
    kept with the run, where 'release' and 'report' find them. 'federation start' has to be running,
    and no run. It takes minutes, or hours with many patients.

    Example:
        asyndgan federation audit fed --run first

    Masks:
        --masks FOLDER: Data set of the masks from which the set for release is painted. By default
            those from which the run learned to paint.

    Sites:
        --site NAME: Ask this site. By default all sites that took part.
    """
    order, console = _order(folder, run), Terminal(stderr=as_json)
    from asyndgan.auditing.asking import answered_audits, ask_audits
    from asyndgan.auditing.audit import AUDIT_FILE
    from asyndgan.auditing.record import AuditRecord, read_audit
    from asyndgan.auditing.release import release_by
    from asyndgan.cli.audit import tell_attacks

    def tell(name: str, found: Any) -> None:
        if not isinstance(found, AuditRecord):
            return console.say(f"{name}: no audit. {found}")
        console.say(f"{name}: groups {found.audit.groups.verdict}")
        tell_attacks(console, found.audit.attacks)
        console.say(f"{name}: copies: {found.decided(found.audit.copies.verdict)}")

    missed = ask_audits(
        order.federation, order.folder, sites=site or (), masks=masks, fade=fade or (), tell=tell
    )
    kept = answered_audits(order.folder)
    records = [read_audit(each) for each in kept]
    if as_json:
        print_json({each.name: json.loads((each / AUDIT_FILE).read_text("utf-8")) for each in kept})
    if records:
        console.say(f"release: {release_by(order.folder, records[0], records[1:])}")
    if missed:
        raise RunError(
            f"no audit of {', '.join(missed)}. A site's steward allows audits with leaves.audits "
            "of its policy, and reads in site.log why one failed. Then ask again, with --site."
        )


@federation.command()
def evaluate(
    folder: Folder,
    run: str | None = None,
    site: list[str] | None = None,
    masks: Path | None = None,
    fade: list[str] | None = None,
    steps: Count = SegmentationBudget.steps,
    network: str = SegmentationBudget.network,
    device: str = "cpu",
) -> None:
    """Has sites judge a model of a finished run's synthetic set, each on its held-out patients.

    Trains a segmentation network on the synthetic set alone, for records a regression. A site
    answers with rounded scores, as often as its policy allows (leaves.evaluations). They are kept
    with the run, where 'release' and 'report' find them. 'federation start' has to be running, and
    no run.

    Example:
        asyndgan federation evaluate fed --run first

    Masks:
        --masks FOLDER: Data set of the masks from which the set for release is painted. By default
            those from which the run learned to paint.

    Sites:
        --site NAME: Ask this site. By default all sites that took part.

    Training:
        --steps N: Training steps of the network.
        --network NAME: Segmentation network: unet, segresnet or unetr.
    """
    order, console = _order(folder, run), Terminal()
    from asyndgan.auditing.asking import ask_evaluations
    from asyndgan.judging.asked import SiteEvaluation
    from asyndgan.judging.bench import Bench

    budget = SegmentationBudget(network=network, steps=steps)
    with (
        tempfile.TemporaryDirectory() as place,
        EvaluationDisplay(console, "paint cases") as display,
    ):
        bench = Bench(Path(place), budget, device=device, on_progress=display.show)
        missed = ask_evaluations(
            order.federation, order.folder, bench, sites=site or (), masks=masks, fade=fade or (),
            tell=lambda name, found: console.say(
                f"{name}: {found}"
                if isinstance(found, SiteEvaluation)
                else f"{name}: no evaluation. {found}"
            ),
        )  # fmt: skip
    if missed:
        raise RunError(
            f"no evaluation of {', '.join(missed)}. A site's steward allows evaluations with "
            "leaves.evaluations of its policy, and reads in site.log why one failed. Then ask "
            "again, with --site."
        )


@federation.command()
def export(
    recipe: RecipeName,
    to: Annotated[Path, typer.Option()],
    site: Annotated[list[str], typer.Option()],
    overrides: Overrides = None,
    run: str | None = None,
) -> None:
    """Writes a job for a FLARE federation that others have made, or for FLARE's simulator.

    FLARE's server trains the run; nobody confirms what it paints. The job holds keys: give it to
    nobody but that server. If masks are learned first, by a job of their own, that is TO-masks.

    Example:
        asyndgan federation export default --to job --site north --site south

    Output:
        --to FOLDER: New folder of the job, for 'nvflare job submit -j FOLDER'.

    Run:
        --run NAME: Name of the run. By default the name of the recipe.
        --site NAME: Site that takes part, as FLARE names it.
    """
    from asyndgan.engines.federation import MASKS_SUFFIX, check_run_name
    from asyndgan.runs.mask_learning import beside, recipe_of_masks

    resolved = load_recipe(recipe, overrides or [])
    name = _run_name(run, resolved)
    check_run_name(name, learns_masks=resolved.given_masks)
    jobs = {to: (resolved, name)}
    if resolved.given_masks:
        jobs = {beside(to): (recipe_of_masks(resolved), name + MASKS_SUFFIX), **jobs}
    flare_part("jobs").export_jobs(jobs, site)
    submit = ", and when it has finished ".join(
        f"nvflare job submit -j {quote(str(place))}" for place in jobs
    )
    for place, (_, called) in jobs.items():
        Terminal().say(f"Job of run {called} in {place}. It holds keys, so keep it secret.")
    Terminal().say(f"Prepare sites and FLARE as in docs/flare.md. Then {submit}")


def _tell_policies(order: Any) -> None:
    """Says what policies that 'site init' writes will do with a run: have it wait, or refuse it."""
    found, name = first_policy("", "measured").refused_by(order.folder.recipe()), order.name
    if refused := "; ".join(reason for key, reason in found if key not in ASKED):
        return Terminal().say(f"The default policy of 'site init' refuses run {name}: {refused}.")
    asks = f"asyndgan site approve SITE {name}"
    Terminal().say(f"At sites with the default policy of 'site init' run {name} waits for: {asks}")
    for _, reason in found:
        Terminal().say(f"  With 'measured' as well: {reason.partition(';')[0]}.")


def _run_name(run: str | None, recipe: Recipe) -> str:
    return run or recipe.name.lower().replace(" ", "-")


@federation.command()
def confirm(folder: Folder, run: str | None = None) -> None:
    """Shows what a run would paint, and begins it if you agree.

    What it paints and learns from follows from the cards of its sites.

    Example:
        asyndgan federation confirm fed
    """
    _have_confirmed(_order(folder, run), ask=True)


def _have_confirmed(order: Any, *, ask: bool) -> None:
    """Waits for the cards of a run's sites, shows what follows from them, and asks.

    Without `ask` the command to confirm later is printed.
    """
    console, later = Terminal(), f"asyndgan federation confirm {quote(str(order.federation.path))}"
    console.say(
        "It begins when you have confirmed what its sites' cards have it paint"
        + ("; Ctrl-C if you want to do so later" if ask else "")
        + f": {later} --run {order.name}"
    )
    if not ask:
        return
    told = ""
    while not (text := order.said("proposal")):
        state, reason = order.state(), order.said("failed")
        if state not in ("ordered", "running"):
            raise RunError(f"run {order.name} is {state}, so there is nothing to confirm. {reason}")
        if order.begun() or state == "running":
            console.say(f"Run {order.name} has begun; there is nothing to confirm.")
            return
        ahead = order.ahead()
        waiting = order.said("waiting") or (f"run {ahead} to end" if ahead else "")
        news = f"waiting for {waiting}" if waiting else order.said("trouble")
        if news not in ("", told):
            console.say(news)
            told = news
        time.sleep(LOOK_S)
    console.say(text)
    if typer.confirm("Shall the run begin so?"):
        order.confirm(text)
        console.say(f"Run {order.name} begins.")
        return
    order.stop()
    console.say(
        f"Run {order.name} is stopped. To leave out a site, call 'asyndgan federation remove "
        f"{quote(str(order.federation.path))} SITE'. Then submit it again, or another that names "
        "what it paints (image.modalities, image.labels)."
    )


@federation.command()
def status(
    folder: Folder,
    run: str | None = None,
    as_json: AsJson = False,
) -> None:
    """Shows which sites are connected, and how a run stands.

    For a run: its step, and the share, last contact, bytes and losses of each site,
    if its policy lets losses leave.

    Example:
        asyndgan federation status fed
    """
    from asyndgan.runs.order import Order

    made, console = federation_in(folder), Terminal(file=sys.stdout)
    if run is None and not Order.all(made):
        line = flare_part("transport").connected(made)
        if as_json:
            print_json({"run": None, "connected": line})
        else:
            submit = f"asyndgan federation submit {quote(str(folder))} default"
            console.say(f"{line}\nNo run is ordered: {submit}")
        return
    standing = Standing(Order.named(made, run))
    if as_json:
        print_json(standing.facts())
        return
    console.print(standing.table())
    console.say(standing.news())


@federation.command()
def console(
    folder: Folder,
    port: Port = 0,
    no_browser: NoBrowser = False,
) -> None:
    """Opens a page on which runs, their sites and what they wait for are seen.

    Its forms add sites, submit, confirm and stop runs, ask for audits and release sets. Serves this
    machine alone, until Ctrl-C. The address holds a key: whoever has it can do all this. The second
    address is for those who may only look.

    Example:
        asyndgan federation console fed
    """
    from asyndgan.reports.coordinator import CoordinatorPage

    with CoordinatorPage(federation_in(folder), port) as server:
        log_to(folder / "console.log")
        serve_page(server, browser=not no_browser)


@federation.command()
def stop(folder: Folder, run: str | None = None) -> None:
    """Stops a run after a checkpoint. 'submit' resumes it.

    Example:
        asyndgan federation stop fed
    """
    order = _order(folder, run)
    if order.state() == "finished":
        raise RunError(
            f"run {order.name} is finished; there is nothing to stop. 'asyndgan federation fetch "
            f"{quote(str(folder))} --run {order.name} --out {order.name}' copies it."
        )
    Terminal().say(order.stop())


@federation.command()
def fetch(folder: Folder, out: NewFolder, run: str | None = None) -> None:
    """Copies a run: generator, metrics, samples and released masks.

    Example:
        asyndgan federation fetch fed --out run
    """
    from asyndgan.export.writing import copy_folder, written_whole
    from asyndgan.runs.order import Said

    order = _order(folder, run)
    order.folder.check_links()
    kept = shutil.ignore_patterns(
        "checkpoints", ".held", ".*.half", "order.json", "stop", *get_args(Said)
    )
    with written_whole(out) as half:
        copy_folder(order.folder.path, half, kept)
    Terminal().say(f"Run {order.name} ({order.state()}) in {out}")


def _order(folder: Path, run: str | None) -> Any:
    from asyndgan.runs.order import Order

    return Order.named(federation_in(folder), run)
