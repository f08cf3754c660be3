"""Files that let others find, check and load a synthetic set that is passed on.

Croissant 1.1 with its terms of responsible AI (https://docs.mlcommons.org/croissant/), RO-Crate 1.2
(https://w3id.org/ro/crate/1.2), the permitted use as a code of the Data Use Ontology (Lawson et al.
2021), and a manifest of checksums in BagIt's form (RFC 8493, section 2.1.3).
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from mimetypes import MimeTypes
from pathlib import Path
from typing import Any, Final, final

from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

from asyndgan.errors import RunError
from asyndgan.painting.card import plain
from asyndgan.received import opened
from asyndgan.texts import bounded_text

CROISSANT: Final = "croissant.json"
CRATE: Final = "ro-crate-metadata.json"
MANIFEST: Final = "manifest-sha256.txt"
_CARD: Final = "MODEL_CARD.md"

LONGEST: Final = 200  # letters of a creator or contact
_USE: Final = re.compile(r"DUO:[0-9]{7}")
_OF_CROISSANT: Final = (
    "arrayShape", "citeAs", "column", "containedIn", "equivalentProperty", "extract", "field",
    "fileProperty", "fileObject", "fileSet", "format", "includes", "isArray", "isLiveDataset",
    "jsonPath", "key", "md5", "parentField", "path", "recordSet", "references", "regex", "repeated",
    "replace", "samplingRate", "separator", "source", "subField", "transform",
)  # fmt: skip
_CONTEXT: Final[dict[str, Any]] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "sc": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "dct": "http://purl.org/dc/terms/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "conformsTo": "dct:conformsTo",
    **{term: f"cr:{term}" for term in _OF_CROISSANT},
}


_RESPONSIBLE: Final = {
    "rai:dataCollection": "Painted by a generative network from label maps; none was acquired.",
    "rai:dataCollectionType": "Synthetic data",
    "rai:hasSyntheticData": True,
    "rai:dataUseCases": "Training of segmentation and prediction models, and research.",
    "rai:dataLimitations": (
        "Rare findings of the sites may be missing. Not for diagnosis, and not a stand-in for a "
        f"validation on real patients. {_CARD} says more."
    ),
    "rai:dataBiases": "What the patients of the sites have in common, the set has too.",
}


@final
@dataclass(frozen=True)
class Release:
    """What its publisher says of a set."""

    licence: str  # SPDX expression, such as `CC-BY-4.0`
    creator: str  # person or institution that answers for the set
    contact: str  # address of mail or of a page, where recipients ask
    use: str = ""  # code of the Data Use Ontology, such as `DUO:0000042`; or empty

    def __post_init__(self) -> None:
        """Raises `RunError` if the licence or the code of use is none, or a text is no line."""
        for name in ("creator", "contact"):
            text = getattr(self, name)
            if not text.strip() or not text.isprintable() or len(text) > LONGEST:
                raise RunError(
                    f"{name}: give one line of 1 to {LONGEST} letters that can be printed."
                )
        if not re.match(r"https?://.|[^@]+@[^@]", self.contact):
            raise RunError(
                f"'{self.contact}' is no contact: give an address of mail, or of a page that "
                "begins with https://."
            )
        try:
            known = canonicalize_license_expression(self.licence)
        except InvalidLicenseExpression as error:
            raise RunError(
                f"'{self.licence}' is no licence of the SPDX list (https://spdx.org/licenses). "
                "Common ones: CC-BY-4.0, CC0-1.0, CC-BY-NC-4.0; one of your own: "
                "LicenseRef-NAME, with its text in a file beside the set."
            ) from error
        object.__setattr__(self, "licence", str(known))
        if self.use and not _USE.fullmatch(self.use):
            raise RunError(
                f"'{self.use}' is no code of the Data Use Ontology, such as DUO:0000042 (general "
                "research) or DUO:0000006 (health and biomedical research)."
            )


@final
@dataclass(frozen=True)
class _Part:
    """A file of the set, or a folder of files of one type, which has no `file`."""

    name: str
    encoding: str
    file: Path | None = None


def describe(folder: Path, release: Release, title: str, audited: str) -> None:
    """Writes what catalogues read into the folder of a painted set, and a manifest of its files.

    `audited` are the findings of the audits that permit its release.
    """
    day = datetime.now(UTC).date()
    single = re.fullmatch(r"[\w.+-]+", release.licence)
    listed = single and not release.licence.startswith("LicenseRef-")
    common = {
        "name": title,
        "description": (
            "Synthetic: no case was acquired from a patient. Painted by a generator that learned "
            f"from several sites without their images. {_CARD} has its limits. Audits: {audited}"
        ),
        "datePublished": f"{day}",
        "version": f"{day.year}.{day.month}.{day.day}",
        "license": f"https://spdx.org/licenses/{release.licence}" if listed else release.licence,
    }
    if release.use:
        use = release.use.replace(":", "_")
        common["usageInfo"] = f"http://purl.obolibrary.org/obo/{use}"
    own = folder / ("schema.json" if (folder / "schema.json").exists() else "dataset.json")
    about = json.loads(bounded_text(own))
    told = {"licence": release.licence, "creator": release.creator, "contact": release.contact}
    _write(own, about | ({} if own.name == "schema.json" else told))
    with (folder / _CARD).open("a", encoding="utf-8") as card:
        card.write(
            f"\n## Publisher\n\n{plain(release.creator)}, {plain(release.contact)}. Licence: "
            f"{plain(release.licence)}.{f' Permitted use: {release.use}.' if release.use else ''}\n"
        )
    columns = about["columns"] if own.name == "schema.json" else {}
    reached = {"url" if release.contact.startswith("http") else "email": release.contact}
    _write(
        folder / CROISSANT,
        {
            **common,
            "@context": _CONTEXT,
            "@type": "sc:Dataset",
            "conformsTo": [
                "http://mlcommons.org/croissant/1.1",
                "http://mlcommons.org/croissant/RAI/1.0",
            ],
            "creator": {"@type": "sc:Organization", "name": release.creator, **reached},
            "publisher": {"@type": "sc:Organization", "name": release.creator},
            "citeAs": f"{release.creator}: {title}, {common['version']}",
            "url": reached.get("url", "./"),
            **_RESPONSIBLE,
            "rai:personalSensitiveInformation": f"Attacks before the release: {audited}",
            "distribution": [_resource(part) for part in _parts(folder)],
            "recordSet": [*_records(_parts(folder), columns)],
        },
    )
    _write(folder / CRATE, _crate(_parts(folder), release, common, reached))
    lines = [f"{_sha256(file)}  {file.relative_to(folder).as_posix()}\n" for file in _files(folder)]
    (folder / MANIFEST).write_text("".join(lines), "utf-8")


def _files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.is_file())


def _parts(folder: Path) -> list[_Part]:
    """The files that lie in a folder, then its inner folders."""
    files = _files(folder)
    single = [_Part(file.name, _type(file), file) for file in files if file.parent == folder]
    inner = {file.parent: file for file in files if file.parent != folder}
    return [*single, *(_Part(each.name, _type(file)) for each, file in inner.items())]


def _type(file: Path) -> str:
    known = MimeTypes()
    known.add_type("text/markdown", ".md")
    kind, packed = known.guess_type(file.name)
    return kind or f"application/{packed or 'octet-stream'}"


def _resource(part: _Part) -> dict[str, Any]:
    """A file, or a folder of files, as Croissant describes it."""
    named = {"@id": part.name, "name": part.name, "encodingFormat": part.encoding}
    if not part.file:
        return {"@type": "cr:FileSet", **named, "includes": f"{part.name}/*"}
    return {
        "@type": "cr:FileObject",
        **named,
        "contentUrl": part.name,
        "contentSize": f"{part.file.stat().st_size} B",
        "sha256": _sha256(part.file),
    }


def _records(
    parts: Sequence[_Part], columns: Mapping[str, Mapping[str, Any]]
) -> Iterator[dict[str, Any]]:
    """What a loader reads: the columns of a table, or each file of a folder with its name."""
    if columns:
        table = next(part.name for part in parts if part.encoding == "text/csv")
        yield _record_set(
            "records", "records", {"fileObject": {"@id": table}},
            {
                name: ("sc:Float" if column["kind"] == "numeric" else "sc:Text", {"column": name})
                for name, column in columns.items()
            },
        )  # fmt: skip
    for part in parts:
        if not part.file:
            content = {"path": ("sc:Text", {"fileProperty": "fullpath"})}
            if part.encoding.startswith("image/"):
                content = {"image": ("sc:ImageObject", {"fileProperty": "content"})}
            named = {"filename": ("sc:Text", {"fileProperty": "filename"})}
            source = {"fileSet": {"@id": part.name}}
            yield _record_set(f"files-{part.name}", part.name, source, named | content)


def _record_set(
    name: str, of: str, source: Mapping[str, Any], fields: Mapping[str, tuple[str, dict[str, str]]]
) -> dict[str, Any]:
    return {
        "@type": "cr:RecordSet",
        "@id": name,
        "name": name,
        "field": [
            {
                "@type": "cr:Field",
                "@id": f"{of}/{field}",
                "name": field,
                "dataType": kind,
                "source": {**source, "extract": extract},
            }
            for field, (kind, extract) in fields.items()
        ],
    }


def _crate(
    parts: Sequence[_Part], release: Release, common: Mapping[str, str], reached: Mapping[str, str]
) -> dict[str, Any]:
    """RO-Crate's graph: the set, who answers for it, its licence and its files."""
    licence = common["license"] if common["license"] != release.licence else "#licence"
    entities = [
        {"@id": part.name, "@type": "File", "name": part.name, "encodingFormat": part.encoding}
        if part.file
        else {"@id": f"{part.name}/", "@type": "Dataset", "name": part.name}
        for part in parts
    ]
    whole = {
        **common,
        "@id": "./",
        "@type": "Dataset",
        "license": {"@id": licence},
        "author": {"@id": "#creator"},
        "publisher": {"@id": "#creator"},
        "hasPart": [{"@id": entity["@id"]} for entity in entities],
    }
    version = {"@id": "https://w3id.org/ro/crate/1.2"}
    return {
        "@context": f"{version['@id']}/context",
        "@graph": [
            {"@id": CRATE, "@type": "CreativeWork", "conformsTo": version, "about": {"@id": "./"}},
            whole,
            {"@id": licence, "@type": "CreativeWork", "name": release.licence},
            {"@id": "#creator", "@type": "Organization", "name": release.creator,
             "contactPoint": {"@id": "#contact"}},
            {"@id": "#contact", "@type": "ContactPoint", "name": release.contact, **reached},
            *entities,
        ],
    }  # fmt: skip


def _sha256(path: Path) -> str:
    with opened(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", "utf-8")
