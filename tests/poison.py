"""Files that run code of others wherever somebody looks for them."""

import json
from pathlib import Path
from typing import Any

COMPONENTS = (
    "startup/fed_client.json", "startup/fed_client.json.default", "startup/x__resources.json",
    "startup/x__p_resources.json", "startup/x__j_resources.json", "local/resources.json",
    "local/resources.json.default", "local/x__resources.json", "local/x__p_resources.json",
    "local/x__j_resources.json", "local/job_resources.json", "local/privacy.json",
    "local/privacy.json.sample", "local/comm_config.json", "comm_config.json",
    "local/authorization.json", "startup/signature.json", "study_registry.json",
)  # fmt: skip
"""Files in which FLARE looks for components, or for other settings."""

LOGS = ("local/log_config.json", "local/log_config.json.default")

MODULES = (
    "sitecustomize", "usercustomize", "json", "asyndgan/__init__", "nvflare/__init__",
    "torch/__init__", "nvflare_decomposers/own", "plugin", "conftest",
)  # fmt: skip
PLACES = ("", "local/", "local/custom/", "startup/", "custom/", "app_north/custom/", "plugins/")

SCRIPTS = ("sub_start.sh", "start.sh", "startup/sub_start.sh", "startup/start.sh", "stop_fl.sh")


def poison(folder: Path, ran: Path, names: tuple[str, ...] | None = None) -> None:
    """Makes every file that FLARE, Python or a shell may look for leave its name in `ran`.

    Args:
        folder: a site's folder, or FLARE's, whose own files keep what else they hold.
        ran: an empty folder.
        names: files to write; None for all.
    """

    def leave(name: str) -> Path:
        return ran / name.replace("/", "-")

    def write(name: str, text: str) -> None:
        if names is None or name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
            (folder / name).chmod(0o755)

    def content(name: str) -> dict[str, Any]:
        found = folder / name
        tables: dict[str, Any] = json.loads(found.read_text()) if found.exists() else {}
        return tables

    for name in COMPONENTS:
        run = {"args": {"args": ["touch", str(leave(name))]}, "path": "subprocess.Popen"}
        tables = content(name)
        tables["components"] = [*tables.get("components", []), {"id": name, **run}]
        write(name, json.dumps(tables))
    for name in LOGS:
        formatter = {"()": "subprocess.Popen", "args": ["touch", str(leave(name))]}
        tables = {"version": 1} | content(name)
        write(name, json.dumps(tables | {"formatters": {"plain": formatter}}))
    for place in PLACES:
        for module in MODULES:
            name = f"{place}{module}.py"
            write(name, f"import pathlib\npathlib.Path({str(leave(name))!r}).touch()\n")
    for name in SCRIPTS:
        write(name, f"#!/bin/sh\ntouch {leave(name)}\n")


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())
