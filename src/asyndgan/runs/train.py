"""Trains a run from its first step to its last, across interruptions."""

from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from asyndgan.engines import SiteSetup, build_engine
from asyndgan.intake.dataset import DataSet
from asyndgan.models.parts import usable_device
from asyndgan.protocol import Transport
from asyndgan.recipe import Recipe
from asyndgan.runs.attempt import Attempt, Confirm, Watch
from asyndgan.runs.checks import (
    check_late_sites,
    check_policies,
    check_sites,
    given_masks,
    precision_of,
    resumed,
)
from asyndgan.runs.folder import RunFolder
from asyndgan.runs.signals import termination_unwinds
from asyndgan.runs.start import start_of
from asyndgan.tables.check import check_own_records
from asyndgan.training.compute import measured_threads, torch_threads
from asyndgan.training.roster import Pending


def train(
    recipe: Recipe,
    sites: dict[str, Path],
    out: Path,
    *,
    policies: Mapping[str, Path] | None = None,
    masks: Path | None = None,
    records: Path | None = None,
    without: Mapping[str, Collection[str]] | None = None,
    engine: str = "inprocess",
    resume: bool = False,
    threads: int | None = None,
    device: str = "cpu",
    start: Path | None = None,
    confirm: Confirm | None = None,
    watch: Watch | None = None,
) -> RunFolder:
    """Trains one generator with these sites; what is not said here is as in `asyndgan.train`.

    `records` is required if a policy limits what is spent or answered over all runs. `threads`:
    None: as the run began or, of a new run, as many as compute fastest. Results are bit-equal only
    for equal numbers.

    Raises:
        Interrupted: after Ctrl-C, when the checkpoint is written.
        NotFiniteError: a loss is not finite; names site, step and last good checkpoint.
        QuorumError: too few sites for longer than the recipe's patience; a checkpoint is written.
        RunError, DataError, CohortError, RecipeError, PolicyError: the run cannot begin.
    """
    on = usable_device(device)
    check_policies(recipe, sites, policies or {}, records)
    check_sites(recipe, sites, without or {})
    if recipe.table and not resume:
        check_own_records(sites)
    given = given_masks(recipe, masks, RunFolder(out) if resume else None)
    check_late_sites(recipe, sites, without or {})
    folder = resumed(out, recipe, sites) if resume else RunFolder.create(out, recipe)
    begins = start_of(start, folder, recipe, sites)
    precision = precision_of(folder, recipe, on)
    if not threads and folder.facts_file.exists():
        threads = folder.facts().threads
    if not threads:
        threads = measured_threads(recipe, len(sites) * recipe.training.batch, precision, on)
    setups = [
        SiteSetup(
            name,
            data,
            folder.site_state(name),
            policy=(policies or {}).get(name),
            records=records / name if records else None,
            device=device,
            without=tuple((without or {}).get(name, ())),
            precision=precision,
        )
        for name, data in sorted(sites.items())
    ]
    sets = {site: DataSet(data) for site, data in sites.items() if not recipe.table}
    with folder.held(), termination_unwinds(), torch_threads(threads):
        if not resume:
            folder.claim(recipe)
        transport = build_engine(engine, setups, recipe)
        try:
            run = Attempt(
                folder, recipe, transport, engine, sites, device=device, precision=precision,
                confirm=confirm, sets=sets,
                go_on="go on with 'asyndgan train ... --resume'",
                start=begins, given=given,
            )  # fmt: skip
            run.to_the_end(watch)
        finally:
            transport.close()
    return folder


def train_over(
    folder: RunFolder,
    transport: Transport,
    *,
    sites: Collection[str],
    device: str = "cpu",
    stop: Callable[[], bool] = lambda: False,
    confirm: Confirm | None = None,
    pending: Pending | None = None,
    start: Path | None = None,
    masks: Path | None = None,
    watch: Watch | None = None,
    go_on: str,
) -> None:
    """Trains over a transport of FLARE; continues from the newest checkpoint if there is one.

    The caller holds the lock of the folder, which has the recipe, and closes the transport. Without
    the `sites` named the run does not begin; others may join. `stop` is called after every step and
    while waiting for sites; True stops the run. `pending` has a run wait for stewards, as for
    `open_all`; `go_on` says how a run that was stopped goes on. All else is as for `train`.
    """
    run = Attempt(
        folder, folder.recipe(), transport, "flare", sites, device=device,
        precision=precision_of(folder, folder.recipe(), usable_device(device)),
        go_on=go_on, confirm=confirm, pending=pending,
        start=start_of(start, folder, folder.recipe(), sites),
        given=given_masks(folder.recipe(), masks, folder),
    )  # fmt: skip
    run.to_the_end(watch, stop)
