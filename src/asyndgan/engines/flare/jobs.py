"""Submits FLARE jobs by its administrators' interface: one per site, configuration but no code."""

import json
import logging
import secrets
import socket
import subprocess
import tempfile
import threading
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, final

from asyndgan import children
from asyndgan.engines.federation import check_run_name
from asyndgan.engines.flare.kits import Federation, key_of
from asyndgan.engines.flare.member import APP, SITE_NAME
from asyndgan.engines.flare.sealing import Seal, line_key, write_letter
from asyndgan.engines.framing import Frames, Requests
from asyndgan.errors import RunError, SiteUnreachableError, WireError
from asyndgan.protocol import frame_limit
from asyndgan.recipe import Recipe
from asyndgan.texts import parsed_json, replace_text, storing

log = logging.getLogger(__name__)

TASKS_ASKED_S: Final = 5.0
"""Seconds between two requests of a site's job for tasks, of which there are none: FLARE's default
of 2 is most of what an idle connection carries. A job whose run has ended may stay that long, and
after 10 seconds FLARE would kill it, while the next job waits."""

ASKER: Final = "asyndgan.engines.flare.administrator"  # the process that asks FLARE's server
ANSWER_S: Final = 30.0  # seconds in which FLARE's server has to answer, session included
CLOSING_S: Final = 2.0  # Longest time in seconds that the end of a session is waited for
REPLY_BYTES: Final = 2**26  # Most bytes of an answer
ASKED_S: Final = 600.0  # Seconds that an answer without a recipe may take; then it is asked again
TRAINS: Final = "asyndgan.runs.coordination.Coordination"  # trains within FLARE's server
BETWEEN: Final = "."  # Separates run and site in a job's name; a run's name cannot contain it


@final
class Administrator:
    """Asks FLARE's server by its administrators' interface, in a process (`administrator`).

    Another process follows where there was no answer: what FLARE waits for holds nothing up here.
    """

    def __init__(self, kit: Path) -> None:
        self.kit = kit
        self.answer_s = ANSWER_S
        self._asker: tuple[subprocess.Popen[bytes], Requests] | None = None
        self._closed = False
        self._lock = threading.RLock()

    def present(self) -> tuple[str, ...]:
        """Sites that FLARE's server knows now, members or not; raises as `ask`."""
        return tuple(str(client["name"]) for client in self.ask("get_system_info")["client_info"])

    def ask(self, command: str, *words: Any) -> Any:
        """What the method of this name of a FLARE session returns, objects as tables.

        Raises `RunError` if FLARE refuses, `SiteUnreachableError` if its server fails or is late.
        """
        request = json.dumps([command, *words]).encode()
        with self._lock:  # a session serves one thread at a time
            try:
                reply = parsed_json(self._line().ask(request, self.answer_s).decode())
                if "failed" in reply:
                    raise SiteUnreachableError(reply["failed"])
            except (SiteUnreachableError, WireError, OSError) as error:
                self._end()
                raise SiteUnreachableError(f"FLARE's server: {command}: {error}") from error
        if "refused" in reply:
            raise RunError(f"FLARE refuses '{command}' to {user_of(self.kit)}: {reply['refused']}")
        return reply["answer"]

    def close(self) -> None:
        """Ends the session for good; callers that wait for an answer get an error at once."""
        self._closed = True
        idle = self._lock.acquire(blocking=False)
        try:
            self._end(CLOSING_S if idle else 0.0)
        finally:
            if idle:
                self._lock.release()

    def _line(self) -> Requests:
        """Where requests are sent: to a process that is started where there is none."""
        asker = self._asker
        if asker is None:
            ours, theirs = socket.socketpair()
            with theirs:  # the process ends with the socket
                process = children.start(
                    ASKER, self.kit, user_of(self.kit), stdin=theirs.fileno(),
                    stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                )  # fmt: skip
            self._asker = asker = process, Requests(Frames(ours, limit=REPLY_BYTES))
        if self._closed:  # looked at last: `close` may have come on the way
            self._end()
            raise SiteUnreachableError("the session is over.")
        return asker[1]

    def _end(self, farewell_s: float = 0.0) -> None:
        """Ends the process, which may take leave of the server first."""
        asker, self._asker = self._asker, None
        if asker:
            process, line = asker
            line.frames.close()
            with suppress(subprocess.TimeoutExpired):
                process.wait(farewell_s)
            process.kill()
            process.wait()


@final
class Office:
    """Submits and manages the FLARE jobs of one run; without a recipe, of questions to sites.

    Of sites that are named, `only` these get jobs.
    """

    def __init__(
        self, federation: Federation, recipe: Recipe | None, run: str, only: Collection[str] = ()
    ) -> None:
        self.federation, self.only = federation, only
        self.kit = federation.server_kit
        self.administrator = Administrator(federation.admin_kit)
        self.recipe = recipe
        self.run = run
        self.limit = frame_limit(recipe)

    def members(self) -> tuple[str, ...]:
        """Sites that may take part, read from the file each time: sites may join during a run."""
        sites = Federation.of(self.federation.path).sites
        return tuple(site for site in sites if not self.only or site in self.only)

    def seal(self, site: str) -> Seal:
        """Seals what is sent to a site."""
        key = key_of(self.federation, site)  # anew each time: another may have taken its place
        return Seal(line_key(self.federation.admin_kit, site, key, self.run))

    def submit(self, site: str) -> str:
        """Submits a job for a site and returns its id; raises as `Administrator.ask`."""
        with tempfile.TemporaryDirectory() as folder:
            job = Path(folder) / "job"
            recipe = self.recipe.to_toml() if self.recipe else ""
            try:
                letter = write_letter(
                    self.federation.admin_kit, site, key_of(self.federation, site), self.run, recipe
                )
                write_job(job, site, self.recipe, self.run, letter)
            except OSError as error:
                raise RunError(f"a job cannot be written: {error}") from error
            return str(self.administrator.ask("submit_job", str(job)))

    def sweep(self, members: Collection[str]) -> dict[str, list[str]]:
        """Ends the jobs of other runs and of non-members, and deletes jobs that have ended.

        Returns the jobs of this run that wait or run, by site; some may be of an earlier
        coordinator.
        """
        ours: dict[str, list[str]] = {}
        for about in self.administrator.ask("list_jobs"):
            job = str(about.get("job_id", ""))
            run, _, site = str(about.get("job_name", "")).partition(BETWEEN)
            if over(str(about.get("status", ""))):
                with suppress(RunError, SiteUnreachableError):  # the next sweep tries again
                    self.administrator.ask("delete_job", job)
            elif run == self.run and site in members:
                ours.setdefault(site, []).append(job)
            else:
                self.end(job)
        return ours

    def lives(self, job: str) -> bool:
        """Whether a job waits or runs; False for one that FLARE does not know."""
        jobs = self.administrator.ask("list_jobs", False, None, job)
        return any(not over(str(about.get("status", ""))) for about in jobs)

    def end(self, job: str) -> None:
        """Aborts a job if it still runs; errors are only logged."""
        try:
            self.administrator.ask("abort_job", job)
        except (RunError, SiteUnreachableError) as error:
            log.info("job %s: %s", job, error)

    def close(self) -> None:
        """Ends the session; further requests fail at once."""
        self.administrator.close()


def digest_of(recipe: Recipe | None) -> str:
    """Digest by which a job's two ends know their recipe; empty if there is none."""
    return recipe.digest() if recipe else ""


def over(status: str) -> bool:
    """Whether a job of this status neither waits nor runs."""
    return status.startswith("FINISHED") or status in ("FAILED_TO_RUN", "ABANDONED")


def user_of(kit: Path) -> str:
    """Name of the user that an administrator's kit belongs to."""
    return str(json.loads((kit / "startup" / "fed_admin.json").read_text())["admin"]["username"])


def write_job(folder: Path, site: str, recipe: Recipe | None, run: str, letter: str) -> None:
    """Writes the folder of a job for one site: configuration that names our two ends of a line."""
    line = _line(recipe, run, letter)
    ours = {key: line[key] for key in ("run", "limit", "wait_s")}
    ours |= {"site": site, "recipe": digest_of(recipe)}
    controller = {"path": f"{APP}.CoordinatorLine", "args": ours}
    write_files(folder, f"{run}{BETWEEN}{site}", controller, {site: line})


def _line(recipe: Recipe | None, run: str, letter: str) -> dict[str, Any]:
    """Arguments of a site's end of a line; a job that is exported has a bare key for a letter."""
    text, wait_s = (recipe.to_toml(), recipe.quorum.wait_s) if recipe else ("", ASKED_S)
    limit = frame_limit(recipe) + Seal.BYTES
    return {"recipe": text, "run": run, "letter": letter, "limit": limit, "wait_s": wait_s}


def export_jobs(jobs: Mapping[Path, tuple[Recipe, str]], sites: Collection[str]) -> None:
    """Writes jobs that each train a run in a FLARE federation that others have made.

    `jobs` has recipe and name of each run, by the new folder of its job, which is to be kept as a
    secret: it brings the keys of the lines to its sites, named as FLARE knows them. Raises
    `StorageError`, or `RunError` before anything is written.
    """
    for folder, (_, run) in jobs.items():
        if folder.exists() and any(folder.iterdir()):
            raise RunError(f"{folder} is not empty; choose another folder.")
        check_run_name(run, learns_masks=False)
        if unknown := [site for site in sites if not SITE_NAME.fullmatch(site)]:
            raise RunError(
                f"{', '.join(unknown)} cannot be a site's name, which has letters, digits, '-' and "
                "'_' alone, at most 48. Name the sites as FLARE does."
            )
    for folder, (recipe, run) in jobs.items():
        keys = {site: secrets.token_hex(32) for site in sites}
        ours = {"recipe": recipe.to_toml(), "run": run, "keys": keys}
        executors = {site: _line(recipe, run, key) for site, key in keys.items()}
        with storing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            folder.chmod(0o700)
            write_files(folder, run, {"path": TRAINS, "args": ours}, executors)


def write_files(
    folder: Path, name: str, controller: dict[str, Any], executors: dict[str, dict[str, Any]]
) -> None:
    """Writes a job: the server's end (`path`, `args`), and arguments of each site's end."""
    files: dict[str, Any] = {
        "meta.json": {
            "name": name, "resource_spec": {}, "min_clients": len(executors),
            "deploy_map": {"app_server": ["server"]}
            | {f"app_{site}": [site] for site in executors},
        },
        "app_server/config/config_fed_server.json": {
            "format_version": 2,
            "server": {"task_request_interval": TASKS_ASKED_S},
            "workflows": [{"id": "coordinator", **controller}],
            "components": [],
        },
    }  # fmt: skip
    for site, arguments in executors.items():
        executor = {"path": f"{APP}.SiteLine", "args": arguments}
        files[f"app_{site}/config/config_fed_client.json"] = {
            "format_version": 2,
            "executors": [{"tasks": ["*"], "executor": executor}],
            "components": [],
        }
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        replace_text(folder / path, json.dumps(content, indent=1))
