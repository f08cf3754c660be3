"""A site's key stays where it was made; requests and kits are what they should be, or refused."""

import json
import os
import re
import shutil
from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from asyndgan.engines.flare.kits import Federation, add_site, init_federation, remove_site, renew
from asyndgan.engines.flare.localhost import federation_here, join
from asyndgan.engines.flare.member import (
    KEY_FILE,
    KIT_FILE,
    MOST_BYTES,
    make_request,
    parsed_kit,
    read_kit,
    read_request,
)
from asyndgan.engines.flare.workspace import FLARE, write_workspace
from asyndgan.errors import RunError, StorageError
from commands import asyndgan


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Folders of two sites of one federation, and of one site of another."""
    folder = tmp_path_factory.mktemp("made")
    federation_here(folder / "one", folder / "north", folder / "south", port=8002)
    federation_here(folder / "other", folder / "east", port=8002)
    return folder


@pytest.fixture
def kit(made, tmp_path):
    return Path(shutil.copytree(made / "north", tmp_path / "north"))


@pytest.fixture
def place(made, tmp_path):
    """A copy of the federation of north and south."""
    return Federation.of(Path(shutil.copytree(made / "one", tmp_path / "one")))


@pytest.fixture
def lax():
    """An account whose files everybody may read and write by default."""
    before = os.umask(0)
    yield
    os.umask(before)


def digits(said: str) -> list[str]:
    return re.findall(r"(?:\d{4} ){5}\d{4}", said)


# Keys stay where they were made


def key_of(folder: Path) -> Any:
    return serialization.load_pem_private_key((folder / KEY_FILE).read_bytes(), None)


def forms(key: rsa.RSAPrivateKey) -> list[bytes]:
    """A private key and its secret numbers, as they may be written down."""
    numbers = key.private_numbers()
    found = [
        value.to_bytes((value.bit_length() + 7) // 8) for value in (numbers.p, numbers.q, numbers.d)
    ]
    open_ = serialization.NoEncryption()
    for form in (serialization.PrivateFormat.PKCS8, serialization.PrivateFormat.TraditionalOpenSSL):
        found.append(key.private_bytes(Encoding.DER, form, open_))
        found += key.private_bytes(Encoding.PEM, form, open_).splitlines()[1:-1]
    return [*found, *map(b64encode, found), *(one.hex().encode() for one in found)]


def test_nothing_that_is_sent_holds_a_private_key_and_no_key_leaves_its_machine(made):
    pems = [path.read_text() for path in made.rglob("*.key")]
    for name in ("one", "other"):
        state = json.loads((made / name / "provisioning/asyndgan/state/cert.json").read_text())
        pems.append(state["root_pri_key"])
    keys: list[Any] = [serialization.load_pem_private_key(pem.encode(), None) for pem in pems]
    secrets = {form for key in keys for form in forms(key)}
    sent = [*made.glob("*/kits/*"), *made.glob("*/*.csr"), *made.glob("*/" + KIT_FILE)]
    assert len(sent) == 9 and len(keys) == 9
    for path in sent:
        content = path.read_bytes()
        text = json.loads(content) if path.suffix == ".json" else {"root": content.decode()}
        ders = [
            x509.load_pem_x509_certificate(value.encode()).public_bytes(Encoding.DER)
            for value in (text["root"], text.get("certificate", ""))
            if "BEGIN CERTIFICATE-" in value
        ]
        assert b"PRIVATE" not in content
        assert not [1 for whole in (content, *ders) for secret in secrets if secret in whole], path
    # Of the site's key, the coordinator has the public half alone.
    own = {form for name in ("north", "south") for form in forms(key_of(made / name))}
    for path in (made / "one").rglob("*"):
        assert not path.is_file() or not [1 for form in own if form in path.read_bytes()], path


def test_a_sites_key_is_never_in_a_file_or_folder_that_others_can_open(lax, tmp_path, monkeypatch):
    inner, seen = os.open, []

    def watched(path, flags, *mode, **named):
        descriptor = inner(path, flags, *mode, **named)
        if flags & os.O_CREAT:
            modes = os.fstat(descriptor).st_mode & 0o777, Path(path).parent.stat().st_mode & 0o777
            seen.append((Path(path).name, *modes))
        return descriptor

    monkeypatch.setattr(os, "open", watched)
    make_request(tmp_path / "north")
    assert (f".{KEY_FILE}.half", 0o600, 0o700) in seen
    assert {folder for _, _, folder in seen} == {0o700}
    assert (tmp_path / "north" / KEY_FILE).stat().st_mode & 0o777 == 0o600


def test_nobody_else_reads_any_key_whatever_a_federations_administrators_do(lax, tmp_path):
    def keys():
        return {
            path.relative_to(tmp_path).as_posix(): path.stat().st_mode & 0o777
            for path in tmp_path.rglob("*")
            if path.is_file() and b"PRIVATE KEY" in path.read_bytes()
        }

    made = init_federation(tmp_path / "f", host="localhost", port=1)
    first = keys()
    assert "f/provisioning/asyndgan/state/cert.json" in first  # the authority's
    for name in ("north", "south"):
        made = join(made, tmp_path / name)
    renew(made)
    write_workspace(tmp_path / "north", read_kit(tmp_path / "north"))
    remove_site(made, "south")
    assert {*first.values(), *keys().values()} == {0o600}
    assert set(keys()) - set(first) == {
        "north/site.key", "north/flare/startup/client.key", "south/site.key"
    }  # fmt: skip


def test_a_request_is_the_same_until_the_key_is_another(tmp_path):
    path = make_request(tmp_path / "north")
    before, key = path.read_bytes(), (tmp_path / "north" / KEY_FILE).read_bytes()
    assert make_request(tmp_path / "north").read_bytes() == before
    (tmp_path / "north" / KEY_FILE).unlink()
    assert make_request(tmp_path / "north").read_bytes() != before
    assert (tmp_path / "north" / KEY_FILE).read_bytes() != key


def test_a_folder_that_is_no_sites_stays_as_it_is(tmp_path):
    (tmp_path / "data").mkdir(mode=0o755)
    (tmp_path / "data" / "dataset.json").touch()
    with pytest.raises(RunError, match="is not empty, and no site's"):
        asyndgan("site", "request", tmp_path / "data")
    assert (tmp_path / "data").stat().st_mode & 0o777 == 0o755
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["dataset.json"]
    for name in ("server", "x" * 49, "north.old", "a b"):
        with pytest.raises(RunError, match="cannot be a site's name"):
            asyndgan("site", "request", tmp_path / name)
    with pytest.raises(StorageError, match="No such file"):
        asyndgan("site", "request", tmp_path / "no" / "north")
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


@pytest.mark.parametrize("content", [b"", b"-----BEGIN PRIVATE KEY-----", b"\xff", b" " * 5000])
def test_a_key_that_cannot_be_used_is_named_and_not_shown(content, kit):
    (kit / KEY_FILE).write_bytes(content)
    with pytest.raises(RunError, match=r"site\.key cannot be used as a private key") as raised:
        read_kit(kit)
    assert "BEGIN" not in str(raised.value)


# Requests


def request_of(
    folder: Path, key: Any, *names: str, role: str = "", name: str = "asked.csr"
) -> Path:
    parts = [x509.NameAttribute(x509.NameOID.COMMON_NAME, name) for name in names]
    if role:
        parts.append(x509.NameAttribute(x509.NameOID.UNSTRUCTURED_NAME, role))
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(parts))
    path = folder / name
    path.write_bytes(request.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM))
    return path


@pytest.fixture(scope="module")
def key():
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def test_a_request_that_was_altered_is_refused(tmp_path, key):
    path = request_of(tmp_path, key, "north")
    csr = x509.load_pem_x509_csr(path.read_bytes()).public_bytes(Encoding.DER)
    changed = csr.replace(b"north", b"south")
    text = b64encode(changed).decode()
    path.write_text(
        f"-----BEGIN CERTIFICATE REQUEST-----\n{text}\n-----END CERTIFICATE REQUEST-----\n"
    )
    with pytest.raises(RunError, match=r"asked\.csr was altered: .* make another"):
        read_request(path)


@pytest.mark.parametrize(
    ("weak", "names", "reason"),
    [
        (lambda: rsa.generate_private_key(65537, 1024), ["west"], "too weak"),
        (lambda: rsa.generate_private_key(3, 2048), ["west"], "too weak"),
        (lambda: ec.generate_private_key(ec.SECP256R1()), ["west"], "of another kind"),
        (None, [], "does not hold a site's name"),
        (None, ["west", "north"], "does not hold a site's name"),
        (None, ["\x1b[2J"], "does not hold a site's name"),
        (None, ["server"], "does not hold a site's name"),
        (None, ["coordinator@asyndgan.local"], "does not hold a site's name"),
    ],
)
def test_a_request_with_a_weak_key_or_no_sites_name_is_refused(weak, names, reason, tmp_path, key):
    with pytest.raises(RunError, match=f"{reason}.*asyndgan site request"):
        read_request(request_of(tmp_path, weak() if weak else key, *names))


@pytest.mark.parametrize("content", [b"", b"\xff", b"PRIVATE KEY", b"x" * 5000])
def test_what_is_no_request_is_refused(content, tmp_path):
    (tmp_path / "north.csr").write_bytes(content)
    with pytest.raises(RunError, match="is no request for a certificate"):
        read_request(tmp_path / "north.csr")


def test_a_request_gets_the_rights_of_a_site_whatever_it_asks_for(place, tmp_path, key):
    more = add_site(place, read_request(request_of(tmp_path, key, "west", role="lead")))
    pem = parsed_kit(more.kit("west")).certificate
    found = x509.load_pem_x509_certificate(pem.encode())
    assert [(each.oid._name, each.value) for each in found.subject] == [
        ("commonName", "west"), ("organizationName", "asyndgan")
    ]  # fmt: skip
    assert x509.OID_BASIC_CONSTRAINTS not in [each.oid for each in found.extensions]


def test_no_two_sites_have_a_name_or_a_key_in_common(place, made, tmp_path, key):
    for name, said in (
        ("north", "name north is taken .* federation remove .* north'"),
        ("NORTH", "name north is taken .* federation remove .* north'"),
        ("localhost", r"name localhost is taken .* two apart\. Have the site take another"),
    ):
        with pytest.raises(RunError, match=said):
            add_site(place, read_request(request_of(tmp_path, key, name)))
    twin = request_of(tmp_path, key_of(made / "north"), "west")
    with pytest.raises(RunError, match=r"is that of site north\. west has to make another"):
        add_site(place, read_request(twin))
    assert Federation.of(place.path) == place and not place.kit("west").exists()


def test_a_kit_that_was_moved_away_is_made_again_or_its_site_removed(place):
    for site in place.sites:
        place.kit(site).unlink()
    renew(place)
    assert place.kit("north").exists()
    place.kit("south").unlink()
    assert remove_site(place, "south").sites == ("north",)


def test_a_removed_key_is_not_added_again_and_a_new_key_of_the_site_is(place, kit):
    less = remove_site(place, "north")
    assert less.sites == ("south",) and not place.kit("north").exists()
    with pytest.raises(RunError, match="removed from this federation"):
        add_site(less, read_request(make_request(kit)))
    (kit / KEY_FILE).unlink()
    again = add_site(less, read_request(make_request(kit)))
    assert again.sites == ("south", "north")
    with pytest.raises(RunError, match="for another key than that in"):
        read_kit(kit)  # the old one
    asyndgan("site", "renew", kit, again.kit("north"))
    assert read_kit(kit) == parsed_kit(again.kit("north"))


# Two people compare by telephone


def test_both_ends_are_shown_the_same_numbers_and_stop_where_they_differ(phantoms, tmp_path):
    place, north = tmp_path / "fed", tmp_path / "north"
    (ours,) = digits(asyndgan("federation", "init", place, "--host", "here"))
    (request,) = digits(asyndgan("site", "request", north))
    add = ("federation", "add", place, north / "north.csr")
    for words in ((*add, "--safety-number", ours), add):
        with pytest.raises(RunError, match="site north is not what its administrator read"):
            asyndgan(*words, answer="n\n")
    assert not (place / "kits").exists()
    said = asyndgan(*add, answer="y\n")
    assert digits(said) == [request, ours]
    sent = place / "kits" / "north.json"
    init = ("site", "init", north, sent, "--data", phantoms["north"])
    for words in ((*init, "--safety-number", request), init):
        with pytest.raises(RunError, match="here:8002 is not what the coordinator's administrator"):
            asyndgan(*words, answer="n\n")
    assert {path.name for path in north.iterdir()} == {KEY_FILE, "north.csr"}
    assert digits(asyndgan(*init, answer="y\n")) == [ours]
    with pytest.raises(RunError, match=r"site\.toml is there already.*asyndgan site renew"):
        asyndgan(*init, "--safety-number", ours)


def test_by_a_renewal_nobody_is_led_to_another_coordinator_unasked(place, kit, tmp_path):
    before = (kit / KIT_FILE).read_bytes()
    renew(place)
    assert not digits(asyndgan("site", "renew", kit, place.kit("north")))
    assert (kit / KIT_FILE).read_bytes() != before
    kept = (kit / KIT_FILE).read_bytes()
    moved, sent = json.loads(kept) | {"host": "there"}, tmp_path / "north.json"
    sent.write_text(json.dumps(moved))
    other = add_site(
        init_federation(tmp_path / "x", host="localhost", port=8002),
        read_request(kit / "north.csr"),
    )
    for path in (sent, other.kit("north")):
        with pytest.raises(RunError, match="is not what the coordinator's administrator read"):
            asyndgan("site", "renew", kit, path, answer="n\n")
        assert (kit / KIT_FILE).read_bytes() == kept
    said = asyndgan("site", "renew", kit, other.kit("north"), answer="y\n")
    assert digits(said) == [other.safety_number]
    assert read_kit(kit) == parsed_kit(other.kit("north"))


def test_a_renewal_keeps_keys_and_authority_and_lasts_longer(place, kit):
    def certificates():
        startups = place.server_kit / "startup/server.crt", place.admin_kit / "startup/client.crt"
        pems = [path.read_text() for path in startups]
        pems += [parsed_kit(place.kit(site)).certificate for site in place.sites]
        return [x509.load_pem_x509_certificate(pem.encode()) for pem in pems]

    before, number = certificates(), place.safety_number
    renew(place)
    after = certificates()
    assert len(after) == 4 and place.safety_number == number
    for old, new in zip(before, after, strict=True):
        assert (old.public_key(), old.subject) == (new.public_key(), new.subject)
        assert old.serial_number != new.serial_number
        assert old.not_valid_after_utc <= new.not_valid_after_utc
        assert [each.value for each in old.extensions] == [each.value for each in new.extensions]


# Kits


def test_the_kit_of_another_key_is_refused_and_changes_nothing(made, kit):
    before = {path.name: path.read_bytes() for path in kit.iterdir()}
    sent = made / "one" / "kits" / "south.json"
    with pytest.raises(RunError, match=r"south\.json is a kit of site south for another key .* in"):
        asyndgan("site", "renew", kit, sent)
    assert {path.name: path.read_bytes() for path in kit.iterdir()} == before


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda ours, south, east: {"components": []}, "other keys"),
        (lambda ours, south, east: {"key": "PRIVATE KEY"}, "other keys"),
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
        (lambda ours, south, east: {"root": ours.root + "\n" * 4096}, "more than 4096 characters"),
        (lambda ours, south, east: {"certificate": east.certificate}, "not one of its authority"),
        (lambda ours, south, east: {"certificate": south.certificate}, "of another name"),
        (
            lambda ours, south, east: {"name": "south", "certificate": south.certificate},
            "of site south for another key",
        ),
    ],
)
def test_a_kit_whose_data_do_not_fit_is_refused(change, reason, made, kit):
    ours, south, east = (read_kit(made / name) for name in ("north", "south", "east"))
    tables = json.loads(ours.to_json()) | change(ours, south, east)
    (kit / KIT_FILE).write_text(json.dumps(tables))
    with pytest.raises(RunError, match=reason):
        read_kit(kit)


@pytest.mark.parametrize(
    "content", [b"{}", b"\xff", b"[" * 50_000, b'{"port": ' + b"9" * 9000 + b"}", b" " * MOST_BYTES]
)
def test_a_kit_that_is_no_small_json_is_refused(content, kit):
    (kit / KIT_FILE).write_bytes(content + (kit / KIT_FILE).read_bytes())
    with pytest.raises(RunError, match="cannot be used"):
        read_kit(kit)


def test_no_pipe_is_waited_for(kit):
    (kit / KIT_FILE).unlink()
    os.mkfifo(kit / KIT_FILE)
    with pytest.raises(RunError, match="and no file"):
        read_kit(kit)


def test_only_what_was_parsed_reaches_flare(kit):
    member = read_kit(kit)
    changed = json.loads(member.to_json())
    for name in ("root", "certificate"):
        changed[name] += "\n# payload\n"
    (kit / KIT_FILE).write_text(json.dumps(changed))
    assert read_kit(kit) == member
    folder = write_workspace(kit, read_kit(kit))
    assert not [path for path in folder.rglob("*.*") if "payload" in path.read_text()]


def test_flares_folder_holds_nothing_that_was_there_before(kit):
    folder = write_workspace(kit, read_kit(kit))
    files = {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.*")}
    assert all(path.stat().st_mode & 0o77 == 0 for path in (folder, *folder.rglob("*")))
    for name in ("local/custom/json.py", "comm_config.json", "local/resources.json"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("payload")
    write_workspace(kit, read_kit(kit))
    assert {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.*")} == files
    names = [FLARE, KIT_FILE, "north.csr", KEY_FILE]
    assert sorted(path.name for path in kit.iterdir()) == names
