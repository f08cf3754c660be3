"""Writes jobs for FLARE federations that others have made: configuration, but no code."""

import json
import secrets
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Final

from asyndgan.engines.federation import check_run_name
from asyndgan.engines.flare.member import SITE_NAME
from asyndgan.engines.flare.workspace import APP
from asyndgan.errors import RunError
from asyndgan.recipe import Recipe
from asyndgan.texts import replace_text, storing

TASKS_ASKED_S: Final = 5.0
"""Seconds between two requests of a site's job for tasks, of which there are none: FLARE's default
of 2 is most of what an idle connection carries. A job whose run has ended may stay that long, and
after 10 seconds FLARE would kill it, while the next job waits."""

TRAINS: Final = "asyndgan.runs.coordination.Coordination"  # trains within FLARE's server


def export_jobs(jobs: Mapping[Path, tuple[Recipe, str]], sites: Collection[str]) -> None:
    """Writes jobs that each train a run in a FLARE federation that others have made.

    `jobs` has recipe and name of each run, by the new folder of its job, which is to be kept as a
    secret: it brings the keys of the lines to its sites, named as FLARE knows them. Raises
    `StorageError`, or `RunError` before anything is written.
    """
    if unknown := [site for site in sites if not SITE_NAME.fullmatch(site)]:
        raise RunError(
            f"{', '.join(unknown)} cannot be a site's name, which has letters, digits, '-' and "
            "'_' alone, at most 48. Name the sites as FLARE does."
        )
    for folder, (_, run) in jobs.items():
        if folder.exists() and any(folder.iterdir()):
            raise RunError(f"{folder} is not empty; choose another folder.")
        check_run_name(run, learns_masks=False)
    for folder, (recipe, run) in jobs.items():
        keys = {site: secrets.token_hex(32) for site in sites}
        with storing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            folder.chmod(0o700)
            for path, content in _files(recipe, run, keys).items():
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                replace_text(folder / path, json.dumps(content, indent=1))


def _files(recipe: Recipe, run: str, keys: Mapping[str, str]) -> dict[str, Any]:
    """A job's files: the coordinator in FLARE's server, and our end at each site."""
    coordinator = {
        "id": "coordinator", "path": TRAINS,
        "args": {"recipe": recipe.to_toml(), "run": run, "keys": keys},
    }  # fmt: skip
    apps = {f"app_{site}": [site] for site in keys}  # one each: a site knows its own key alone
    return {
        "meta.json": {
            "name": run, "resource_spec": {}, "min_clients": len(keys),
            "deploy_map": {"app_server": ["server"], **apps},
        },
        "app_server/config/config_fed_server.json": {
            "format_version": 2,
            "server": {"task_request_interval": TASKS_ASKED_S},
            "workflows": [coordinator],
            "components": [],
        },
        **{
            f"app_{site}/config/config_fed_client.json": {
                "format_version": 2,
                "executors": [
                    {"tasks": ["*"], "executor": {"path": f"{APP}.SiteEnd", "args": {"key": key}}}
                ],
                "components": [],
            }
            for site, key in keys.items()
        },
    }  # fmt: skip
