"""The container files name what is there; nothing builds them here."""

from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from asyndgan.cli import app

FOLDER = Path(__file__).parents[2] / "docker"


def test_what_the_image_copies_is_in_the_repository() -> None:
    lines = (FOLDER / "Dockerfile").read_text().splitlines()
    copied = [word for line in lines if line.startswith("COPY") for word in line.split()[1:-1]]
    assert copied
    for name in copied:
        assert (FOLDER.parent / name).exists(), name


def test_every_service_runs_a_command_that_exists_and_keeps_its_things_outside() -> None:
    services = yaml.safe_load((FOLDER / "compose.yml").read_text())["services"]
    assert set(services) == {"coordinator", "north", "south"}
    for name, service in services.items():
        group, command, place = service["command"]
        assert CliRunner().invoke(app, [group, command, "--help"]).exit_code == 0
        assert any(volume.split(":")[1] == place for volume in service["volumes"]), name
        assert service["restart"] == "unless-stopped"
        if name != "coordinator":
            assert "ports" not in service  # a site opens none
            assert f"./data/{name}:/data:ro" in service["volumes"]


def test_whoever_it_runs_as_has_a_name_which_libraries_ask_for() -> None:
    lines = (FOLDER / "Dockerfile").read_text().splitlines()
    (set_,) = [line.split()[1:] for line in lines if line.startswith("ENV")]
    assert any(word.startswith("USER=") for word in set_)


@pytest.mark.parametrize("name", ["Dockerfile", "compose.yml"])
def test_container_files_hold_no_secret_and_run_as_nobody_special(name: str) -> None:
    text = (FOLDER / name).read_text().lower()
    assert "password" not in text
    assert "privileged" not in text
    assert "user" in text
