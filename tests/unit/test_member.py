"""What a site takes of a kit: data, and nothing that is not what it should be."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from asyndgan.cli import app
from asyndgan.engines.flare.checks import checks
from asyndgan.engines.flare.keeper import keep_client
from asyndgan.engines.flare.kits import init_federation
from asyndgan.engines.flare.member import (
    DECIDED,
    FLARE,
    KIT_FILE,
    MOST_BYTES,
    OWN,
    Member,
    read_kit,
    write_workspace,
)
from asyndgan.errors import RunError
from asyndgan.locks import held


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Kits of two sites of one federation, and one of a site of another."""
    folder = tmp_path_factory.mktemp("made")
    for name, sites in (("one", ("north", "south")), ("other", ("east",))):
        federation = init_federation(folder / name, host="here", port=8002, sites=sites)
        for site in sites:
            shutil.unpack_archive(federation.kits / f"{site}.zip", folder / "kits")
    return folder / "kits"


@pytest.fixture
def kit(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made / "north", tmp_path / "north"))


def asyndgan(*words: object) -> str:
    done = CliRunner().invoke(app, [str(word) for word in words])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.output


def test_a_kit_gives_the_data_that_the_coordinator_put_in(kit: Path) -> None:
    assert [path.name for path in kit.iterdir()] == [KIT_FILE]
    member = read_kit(kit)
    assert (member.name, member.host, member.port) == ("north", "here", 8002)
    assert "PRIVATE" not in repr(member)


Change = Callable[[Member, Member, Member], dict[str, object]]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda ours, south, east: {"components": []}, "other keys"),
        (lambda ours, south, east: {"name": "../north"}, "'name'"),
        (lambda ours, south, east: {"name": ["north"]}, "'name'"),
        (lambda ours, south, east: {"name": "south"}, "of another name"),
        (lambda ours, south, east: {"host": "here\nthere"}, "'host'"),
        (lambda ours, south, east: {"host": "here:1/../x"}, "'host'"),
        (lambda ours, south, east: {"host": "h" * 65}, "'host'"),
        (lambda ours, south, east: {"port": 0}, "'port'"),
        (lambda ours, south, east: {"port": 2**16}, "'port'"),
        (lambda ours, south, east: {"port": True}, "'port'"),
        (lambda ours, south, east: {"port": "8002"}, "'port'"),
        (lambda ours, south, east: {"versions": {"asyndgan": "\x1b[2J"}}, "'versions'"),
        (lambda ours, south, east: {"versions": ["0.1"]}, "'versions'"),
        (lambda ours, south, east: {"root": 7}, "no texts"),
        (lambda ours, south, east: {"root": east.root}, "not one of its authority"),
        (lambda ours, south, east: {"root": ours.certificate}, "not one of its authority"),
        (lambda ours, south, east: {"root": "none"}, "not one of its authority"),
        (lambda ours, south, east: {"certificate": east.certificate}, "not one of its authority"),
        (lambda ours, south, east: {"certificate": south.certificate}, "of another name"),
        (lambda ours, south, east: {"certificate": ours.key}, "not one of its authority"),
        (lambda ours, south, east: {"key": south.key}, "not that of its certificate"),
        (lambda ours, south, east: {"key": ours.key[:-300]}, "cannot be read"),
        (lambda ours, south, east: {"key": ours.key + "\n" * 4096}, "more than 4096 characters"),
    ],
)
def test_a_kit_whose_data_do_not_fit_is_refused_and_no_key_is_shown(
    change: Change, reason: str, made: Path, kit: Path
) -> None:
    ours, south, east = (read_kit(made / name) for name in ("north", "south", "east"))
    tables = json.loads(ours.to_json()) | change(ours, south, east)
    (kit / KIT_FILE).write_text(json.dumps(tables))
    with pytest.raises(RunError, match=reason) as raised:
        read_kit(kit)
    assert not any(line in str(raised.value) for line in (ours.key + south.key).splitlines())


@pytest.mark.parametrize(
    "content", [b"{}", b"\xff", b"[" * 50_000, b'{"port": ' + b"9" * 9000 + b"}", b" " * MOST_BYTES]
)
def test_a_kit_that_is_no_small_json_is_refused(content: bytes, kit: Path) -> None:
    (kit / KIT_FILE).write_bytes(content + (kit / KIT_FILE).read_bytes())
    with pytest.raises(RunError, match="cannot be used"):
        read_kit(kit)


def test_only_what_was_parsed_reaches_flare(kit: Path) -> None:
    member, more = read_kit(kit), "\n# payload\n"
    pems = {name: getattr(member, name) + more for name in ("root", "certificate", "key")}
    (kit / KIT_FILE).write_text(replace(member, **pems).to_json())
    assert read_kit(kit) == member
    folder = write_workspace(kit, read_kit(kit))
    assert not [path for path in folder.rglob("*.*") if "payload" in path.read_text()]


def test_flares_folder_holds_nothing_that_was_there_before(kit: Path) -> None:
    folder = write_workspace(kit, read_kit(kit))
    files = {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.*")}
    assert all(path.stat().st_mode & 0o77 == 0 for path in (folder, *folder.rglob("*")))
    for name in ("local/custom/json.py", "comm_config.json", "local/resources.json"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("payload")
    write_workspace(kit, read_kit(kit))
    assert {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.*")} == files
    assert sorted(path.name for path in kit.iterdir()) == [FLARE, KIT_FILE]


def linked(place: Path, *, dangling: bool) -> Path:
    """A folder elsewhere to which a link at the place leads, or would."""
    elsewhere = place.parents[1] / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "books").write_text("ours")
    place.unlink(missing_ok=True)
    place.symlink_to(elsewhere / ("new" if dangling else "books"))
    return elsewhere


@pytest.mark.parametrize("dangling", [False, True])
@pytest.mark.parametrize("name", [KIT_FILE, *OWN, ".site.toml.half", "startup"])
def test_no_link_leads_what_a_site_writes_elsewhere(
    name: str, dangling: bool, kit: Path, phantoms: dict[str, Path]
) -> None:
    elsewhere = linked(kit / name, dangling=dangling)
    kit.chmod(0o755)
    before = sorted(path.name for path in kit.iterdir())
    with pytest.raises(RunError, match=r"\bis a link\b"):
        asyndgan("site", "init", kit, "--data", phantoms["north"])
    assert sorted(path.name for path in kit.iterdir()) == before
    assert kit.stat().st_mode & 0o777 == 0o755  # nothing at all was written
    for command in ("check", "start") if name in (KIT_FILE, *OWN) else ():
        with pytest.raises(RunError, match=r"\bis a link\b"):
            asyndgan("site", command, kit)
    if name in (KIT_FILE, *OWN):
        with pytest.raises(RunError, match=r"\bis a link\b"):
            keep_client(kit)
    assert [path.name for path in elsewhere.iterdir()] == ["books"]
    assert (elsewhere / "books").read_text() == "ours"


def test_a_lock_is_not_written_through_a_link(tmp_path: Path) -> None:
    folder = tmp_path / "received"
    folder.mkdir()
    elsewhere = linked(folder / ".held", dangling=False)
    with pytest.raises(OSError, match="symbolic link"), held(folder, "busy"):
        pass
    assert (elsewhere / "books").read_text() == "ours"


def test_no_pipe_is_waited_for(kit: Path, phantoms: dict[str, Path]) -> None:
    deep = kit / "a" / "b"
    deep.mkdir(parents=True)
    os.mkfifo(deep / "pipe")
    with pytest.raises(RunError, match="is a link, or no file"):
        asyndgan("site", "init", kit, "--data", phantoms["north"])
    (kit / KIT_FILE).unlink()
    os.mkfifo(kit / KIT_FILE)
    with pytest.raises(RunError, match="and no file"):
        read_kit(kit)


@pytest.mark.parametrize("name", DECIDED)
def test_a_kit_that_decides_something_for_the_site_is_refused(
    name: str, kit: Path, phantoms: dict[str, Path]
) -> None:
    (kit / name).write_text("payload")
    with pytest.raises(RunError, match="this site has not written that"):
        asyndgan("site", "init", kit, "--data", phantoms["north"])


def test_whatever_else_a_kit_holds_is_named(kit: Path, phantoms: dict[str, Path]) -> None:
    for name in ("local", "evil\x1b[2J.py", *(f"z{index}" for index in range(20))):
        (kit / name).write_text("")
    said = asyndgan("site", "init", kit, "--data", phantoms["north"])
    (found,) = [one for one in checks(kit) if one.subject == "kit"]
    for text in (said, found.text):
        assert "'evil\\x1b[2J.py', local, z0" in text and "and 14 more" in text
        assert text.replace("\n", "").isprintable()
