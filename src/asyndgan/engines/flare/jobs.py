"""FLARE jobs by its interface for administrators: one a site, configuration only, no code."""

import json
import logging
import secrets
import tempfile
import threading
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, final

from nvflare.fuel.flare_api.api_spec import (
    AuthenticationError,
    AuthorizationError,
    InvalidJobDefinition,
)
from nvflare.fuel.flare_api.flare_api import Session, new_secure_session

from asyndgan.engines.flare.kits import Federation
from asyndgan.engines.processes import FRAME_SLACK
from asyndgan.errors import RunError, SiteUnreachableError
from asyndgan.protocol import message_limit
from asyndgan.recipe import Recipe

log = logging.getLogger(__name__)

RELAY: Final = "asyndgan.relay.flare"

BETWEEN: Final = "."
"""A run and a site in a job's name; in no name of a run."""


@final
class Office:
    """Submits the jobs of one run.

    Args:
        federation: whose server runs them.
        recipe: of the run; sites get it with their job.
        run: name under which sites keep their state.
        submitter: whose kit submits; None: the federation's own.

    Raises:
        RunError: FLARE does not let the submitter in.
    """

    def __init__(
        self, federation: Federation, recipe: Recipe, run: str, *, submitter: Path | None = None
    ) -> None:
        self.federation = federation
        self.kit = federation.server_kit
        self.admin = submitter or federation.admin_kit
        self.recipe = recipe
        self.run = run
        self.limit = message_limit(recipe) + FRAME_SLACK
        self._session: Session | None = None
        self._lock = threading.RLock()

    def members(self) -> tuple[str, ...]:
        """Sites of the federation, as its file says now: some come while a run is at work."""
        return Federation.of(self.federation.path).sites

    def present(self) -> tuple[str, ...]:
        """Sites that FLARE's server knows now, members or not.

        Raises:
            SiteUnreachableError: the server does not answer.
        """
        return tuple(client.name for client in self._ask("get_system_info").client_info)

    def submit(self, site: str) -> str:
        """A job for a site.

        Raises:
            RunError: FLARE refuses.
            SiteUnreachableError: the server does not answer.
        """
        with tempfile.TemporaryDirectory() as folder:
            job = Path(folder) / job_name(self.run, site)
            try:
                write_job(job, site, self.recipe, self.run, limit=self.limit)
            except OSError as error:
                raise RunError(f"a job cannot be written: {error}") from error
            return str(self._ask("submit_job", str(job)))

    def sweep(self, members: Collection[str]) -> dict[str, list[str]]:
        """Ends other runs' jobs, and has FLARE forget those that have ended.

        Returns:
            Jobs of this run that wait or run, by site: some may be of a coordinator before.

        Raises:
            SiteUnreachableError: the server does not answer.
        """
        ours: dict[str, list[str]] = {}
        for about in self._ask("list_jobs"):
            job = str(about.get("job_id", ""))
            run, _, site = str(about.get("job_name", "")).partition(BETWEEN)
            if over(str(about.get("status", ""))):
                with suppress(RunError, SiteUnreachableError):  # next time
                    self._ask("delete_job", job)
            elif run == self.run and site in members:
                ours.setdefault(site, []).append(job)
            else:
                self.end(job)
        return ours

    def lives(self, job: str) -> bool:
        """Whether a job waits or runs; one that FLARE has forgotten does not."""
        found = self._ask("list_jobs", False, None, job)
        return any(not over(str(about.get("status", ""))) for about in found)

    def end(self, job: str) -> None:
        """Aborts a job, if it still runs."""
        try:
            self._ask("abort_job", job)
        except (RunError, SiteUnreachableError) as error:
            log.info("job %s: %s", job, error)

    def close(self) -> None:
        """Ends the session."""
        if self._session:
            with suppress(Exception):  # the server may be gone before us
                self._session.close()
        self._forget_session()

    def _ask(self, command: str, *words: Any) -> Any:
        with self._lock:  # a session serves one thread
            try:
                if self._session is None:
                    self._session = new_secure_session(
                        user_of(self.admin), str(self.admin), timeout=5.0
                    )
                return getattr(self._session, command)(*words)
            except (AuthorizationError, AuthenticationError, InvalidJobDefinition) as error:
                raise RunError(
                    f"FLARE refuses '{command}' to {user_of(self.admin)}: {error}"
                ) from error
            except Exception as error:  # FLARE's, of many kinds, with its server's texts
                self._forget_session()
                reason = error or type(error).__name__
                raise SiteUnreachableError(f"FLARE's server: {command}: {reason}") from error

    def _forget_session(self) -> None:
        """After an error a new one is begun."""
        session, self._session = self._session, None
        if session:
            with suppress(Exception):  # it is gone already, in one of many ways
                session.api.close()


def job_name(run: str, site: str) -> str:
    """Of the job of a run at a site."""
    return f"{run}{BETWEEN}{site}"


def over(status: str) -> bool:
    """Whether a job of this status neither waits nor runs."""
    return status.startswith("FINISHED") or status in ("FAILED_TO_RUN", "ABANDONED")


def user_of(kit: Path) -> str:
    """Whose an administrator's kit is."""
    return str(json.loads((kit / "startup" / "fed_admin.json").read_text())["admin"]["username"])


def write_job(folder: Path, site: str, recipe: Recipe, run: str, *, limit: int) -> None:
    """A job's folder: configuration that names our two relays, which every kit allows."""
    both = {
        "run": run,
        "secret": secrets.token_hex(32),
        "limit": limit,
        "wait_s": recipe.quorum.wait_s,
    }
    relay = {
        "path": f"{RELAY}.CoordinatorRelay",
        "args": {"site": site, "recipe": recipe.digest(), **both},
    }
    executor = {"path": f"{RELAY}.SiteRelay", "args": {"recipe": recipe.to_toml(), **both}}
    files = {
        "meta.json": {
            "name": job_name(run, site),
            "resource_spec": {},
            "min_clients": 1,
            "deploy_map": {"app": ["server", site]},
        },
        "app/config/config_fed_server.json": {
            "format_version": 2,
            "workflows": [{"id": "relay", **relay}],
            "components": [],
        },
        "app/config/config_fed_client.json": {
            "format_version": 2,
            "executors": [{"tasks": ["*"], "executor": executor}],
            "components": [],
        },
    }
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, indent=1))
