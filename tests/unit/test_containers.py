"""The container files name what is there; nothing builds them here."""

from pathlib import Path

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
