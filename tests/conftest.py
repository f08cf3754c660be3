"""Shape and type checks of the whole package, and small federations.

Every function of `SHAPED`, in which tensors have shapes that mypy does not check, runs under
jaxtyping and beartype here, unless ASYNDGAN_UNCHECKED is set, as `scripts/test` does for all but
unit tests. Left unchecked are otherwise only those that beartype cannot decorate one by one:
methods that return `Self`, and `build_adversarial_loss`, whose `AdversarialLoss` is a protocol that
is not `runtime_checkable`.
Processes that tests start run without the checks.
"""

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TypeVar

import pytest
from beartype import BeartypeConf, beartype
from beartype.roar import BeartypeDecorHintException
from hypothesis import settings
from jaxtyping import install_import_hook

F = TypeVar("F", bound=Callable[..., object])
SHAPED = ("auditing", "judging", "models", "painting", "store", "tables", "training", "wire")
# The tower: an int is a float, as it is for mypy.
_decorate = beartype(conf=BeartypeConf(is_pep484_tower=True))


def _checked(function: F) -> F:
    try:
        return _decorate(function)
    except BeartypeDecorHintException:
        return function


# The hook wants an importable name.
_checks = ModuleType("asyndgan_type_checks")
_checks.checked = _checked  # type: ignore[attr-defined]
sys.modules[_checks.__name__] = _checks
if not os.environ.get("ASYNDGAN_UNCHECKED"):
    install_import_hook([f"asyndgan.{each}" for each in SHAPED], "asyndgan_type_checks.checked")

# Nothing that is tested promises a time, and other work on the machine makes an example slow. The
# same few examples every time, so that a failure is of what changed; EXPLORE=1 draws many others.
EXPLORE = bool(os.environ.get("EXPLORE"))
settings.register_profile(
    "asyndgan", deadline=None, derandomize=not EXPLORE, database=None,
    max_examples=500 if EXPLORE else 40,
)  # fmt: skip
settings.load_profile("asyndgan")

import torch  # noqa: E402

from asyndgan.demo.phantoms import DEFAULT_SITES, write_phantoms  # noqa: E402
from asyndgan.engines import InProcess, SiteSetup, build_engine  # noqa: E402
from asyndgan.errors import SiteUnreachableError  # noqa: E402
from asyndgan.models.installed import part  # noqa: E402
from asyndgan.protocol import Endpoint, Exchange, Transport, message_limit  # noqa: E402
from asyndgan.recipe import Recipe  # noqa: E402
from asyndgan.recipe.pooled import LARGEST_SIDE  # noqa: E402
from asyndgan.runs import mask_learning, planned  # noqa: E402
from asyndgan.store import Cohort, derived_seed  # noqa: E402
from asyndgan.tables.planning import plan_tables  # noqa: E402
from asyndgan.training import Coordinator, Site  # noqa: E402
from asyndgan.training.coordinator import Keep  # noqa: E402

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _slow_for_large_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan's size follows the time that a step takes here: no test may follow the machine."""
    timed = planned.seconds

    def seconds(recipe: Recipe, sites: int, device: str = "cpu") -> float:
        slow = max(recipe.image.size) > LARGEST_SIDE
        return 1e6 if slow else timed(recipe, sites, device)

    monkeypatch.setattr(planned, "seconds", seconds)


TINY = """
name = "tiny"
[image]
size = 16
[generator]
width = 4
blocks = 1
noise = 1
[discriminator]
width = 4
layers = 1
[training]
steps = 6
batch = 2
checkpoint_every = 2
sample_every = 3
ema = 0.5
precision = "float32"
seed = 7
[masks]
release = true
[quorum]
wait_s = 60.0
patience_s = 0.0
"""
RUN = "abc123"
LABELS = {0: "background", 1: "organ", 2: "lesion"}


class Line(Transport):
    """The in-process engine with a line that can be cut or tapped.

    Attributes:
        cut: sites that cannot be reached.
        deaf: sites whose answers get lost on the way.
        left: sites that are no members any more.
        tap: (site, answer) to the answer that arrives.
        sent: every request, as (site, bytes).
    """

    def __init__(self, endpoints: Mapping[str, Endpoint]) -> None:
        self.inner = InProcess(endpoints)
        self.cut: set[str] = set()
        self.deaf: set[str] = set()
        self.left: set[str] = set()
        self.tap: Callable[[str, bytes], bytes] = lambda site, answer: answer
        self.sent: list[tuple[str, bytes]] = []

    def send(self, site: str, payload: bytes, timeout: float) -> bytes:
        self.sent.append((site, payload))
        answer = self.inner.send(site, payload, timeout)
        if site in self.deaf:
            raise SiteUnreachableError(f"site {site}: there was no answer in time.")
        return self.tap(site, answer)

    def sites(self) -> tuple[str, ...]:
        return tuple(site for site in self.inner.sites() if site not in self.cut)

    def belongs(self, site: str) -> bool:
        return site not in self.left

    def close(self) -> None:
        self.inner.close()


@dataclass
class Federation:
    """Sites behind endpoints, a line to them, and the coordinator's half."""

    recipe: Recipe
    sites: dict[str, Site]
    line: Line
    exchange: Exchange

    def begin(self, keep: Keep | None = None) -> Coordinator:
        return Coordinator.begin(self.recipe, self.exchange, run=RUN, keep=keep)

    def endpoint(self, site: str) -> Endpoint:
        return self.line.inner.endpoints[site]


@dataclass
class Running:
    """An engine whose sites run, with what they were set up from."""

    recipe: Recipe
    setups: list[SiteSetup]
    transport: Transport


@pytest.fixture(scope="session")
def tiny() -> Callable[..., Recipe]:
    """The smallest recipe, with overrides: `tiny("training.batch=1")`."""
    return lambda *overrides: Recipe.from_toml(TINY, overrides)


@pytest.fixture(scope="session")
def make_cohort() -> Callable[..., Cohort]:
    """A cohort whose images depend on their masks."""

    def make(
        recipe: Recipe,
        *,
        cases: int = 5,
        modalities: Sequence[str] = ("T1",),
        labels: Mapping[int, str] = LABELS,
        seed: int = 0,
    ) -> Cohort:
        random = torch.Generator().manual_seed(derived_seed(seed, "test cohort"))
        space = recipe.space
        highest = max(labels) + 1
        if recipe.condition.kind == "mask":
            conditions = torch.randint(highest, (cases, *space), generator=random)
            brightness = conditions[:, None] / highest
        else:
            conditions = torch.randint(highest, (cases,), generator=random)
            brightness = torch.zeros(cases, 1, *space)
        texture = 0.4 * torch.rand(cases, len(modalities), *space, generator=random)
        return Cohort(
            (brightness + texture - 0.7).clamp(-1, 1),
            conditions,
            modalities=modalities,
            labels=labels,
            seed=seed,
            flip=recipe.training.flip,
            move=recipe.training.move,
        )

    return make


@pytest.fixture(scope="session")
def make_sites(make_cohort: Callable[..., Cohort]) -> Callable[..., Federation]:
    """A federation: `make_sites(recipe)`, or with a cohort for each site by name.

    Sites of a folder that is used again are started again: those before have ended.
    """
    at_work: dict[Path, list[Site]] = {}

    def make(
        recipe: Recipe,
        cohorts: Mapping[str, Cohort] | None = None,
        *,
        folder: Path | None = None,
        shares: Mapping[str, float] | None = None,
    ) -> Federation:
        if cohorts is None:
            cohorts = {
                "north": make_cohort(recipe, cases=6, seed=1),
                "south": make_cohort(recipe, cases=3, seed=2),
            }
        for site in at_work.pop(folder, []) if folder else []:
            site.release.close()
        sites = {
            name: Site(
                name,
                cohort,
                recipe,
                folder=folder / name if folder else None,
                share=(shares or {}).get(name),
            )
            for name, cohort in cohorts.items()
        }
        if folder:
            at_work[folder] = list(sites.values())
        limit = message_limit(recipe)
        line = Line({name: Endpoint(site, limit=limit) for name, site in sites.items()})
        return Federation(recipe, sites, line, Exchange(line, recipe))

    return make


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of two small phantom sites, 32x32 pixels."""
    return _drawn(tmp_path_factory.mktemp("phantoms"))


@pytest.fixture(scope="session")
def volumes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of the same sites, with a volume of each patient."""
    return _drawn(tmp_path_factory.mktemp("volumes"), slices=8)


def _drawn(folder: Path, slices: int | None = None) -> dict[str, Path]:
    sites = DEFAULT_SITES[:2]
    write_phantoms(folder, size=32, sites=sites, patients_scale=0.12, slices=slices)
    return {site.name: folder / site.name for site in sites}


@pytest.fixture(scope="session")
def tables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of two small tables, whose schemas declare what a recipe is planned from."""
    columns = {
        "age": {"kind": "integer", "knots": [0, 50, 100]},
        "ill": {"kind": "categorical", "categories": ["no", "yes"]},
    }
    schema = {"target": "ill", "shares": {"no": 0.5, "yes": 0.5}, "columns": columns}
    found = {}
    for name in ("north", "south"):
        found[name] = tmp_path_factory.mktemp(name)
        (found[name] / "schema.json").write_text(json.dumps(schema))
        rows = (
            f"{age // 4 * 4},{'yes' if age % 3 else 'no'}\n" for age in range(len(found), 90, 2)
        )
        (found[name] / "records.csv").write_text("age,ill\n" + "".join(rows))
    return found


@pytest.fixture(scope="session")
def running(
    tiny: Callable[..., Recipe],
    phantoms: dict[str, Path],
    tables: dict[str, Path],
    volumes: dict[str, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Callable[..., Running]]:
    """An engine of this name with two sites, started once: importing torch takes seconds."""
    started: dict[tuple[str, str], Running] = {}

    def start(engine: str, kind: str = "images") -> Running:
        if (engine, kind) not in started:
            state = tmp_path_factory.mktemp(engine)
            small = ["training.batch=2", "generator.width=8", "training.precision=float32"]
            planned = plan_tables(tables, small)
            recipe, folders = {
                "images": (tiny("image.size=32"), phantoms),
                "volumes": (tiny("image.size=16x16x16", "image.fit=stretch"), volumes),
                "tables": (planned, tables),
            }[kind]
            assert recipe
            setups = [SiteSetup(name, data, state / name) for name, data in folders.items()]
            made = Running(recipe, setups, build_engine(engine, setups, recipe))
            started[engine, kind] = made
        return started[engine, kind]

    yield start
    for each in started.values():
        each.transport.close()


@pytest.fixture
def left_sites(monkeypatch):
    """Every answer of a site in this process, as it leaves."""
    left = []
    send = InProcess.send

    def listen(self, site, payload, timeout):
        left.append(send(self, site, payload, timeout))
        return left[-1]

    monkeypatch.setattr(InProcess, "send", listen)
    return left


@pytest.fixture(scope="module")
def few_masks():
    """So few are learned to paint from: each costs images that are written, read and compared."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mask_learning, "FEWEST", 24)
        yield


@pytest.fixture
def another_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str, str], None]]:
    """Installs a package beside ours: `another_package(source of the module, entry points)`."""

    def install(source: str, entry_points: str) -> None:
        (tmp_path / "another_package.py").write_text(source)
        about = tmp_path / "another_package-1.0.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(
            "Metadata-Version: 2.1\nName: another-package\nVersion: 1\n"
        )
        (about / "entry_points.txt").write_text(entry_points)
        monkeypatch.syspath_prepend(tmp_path)

    yield install
    sys.modules.pop("another_package", None)
    part.cache_clear()
