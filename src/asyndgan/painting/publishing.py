"""Files that let others find, check and load a synthetic set that is passed on.

Croissant 1.1 with its terms of responsible AI (https://docs.mlcommons.org/croissant/), RO-Crate 1.2
(https://w3id.org/ro/crate/1.2), the permitted use as a code of the Data Use Ontology (Lawson et al.
2021), and a manifest of checksums in BagIt's form (RFC 8493, section 2.1.3).
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
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
_TYPES: Final = {
    ".json": "application/json", ".md": "text/markdown", ".txt": "text/plain", ".csv": "text/csv",
    ".png": "image/png", ".tif": "image/tiff", ".tiff": "image/tiff",
    ".gz": "application/gzip",
}  # fmt: skip

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


@final
@dataclass(frozen=True)
class Release:
    """What its publisher says of a set.

    Attributes:
        licence: SPDX expression, such as `CC-BY-4.0`.
        creator: person or institution that answers for the set.
        contact: address of mail or of a page, where recipients ask.
        use: code of the Data Use Ontology, such as `DUO:0000042`; or empty.
    """

    licence: str
    creator: str
    contact: str
    use: str = ""

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


def describe(folder: Path, release: Release, title: str, audited: str) -> None:
    """Writes what catalogues read into the folder of a painted set, and a manifest of its files.

    `audited` are the findings of the audits that permit its release.
    """
    day = datetime.now(UTC).date()
    common = {
        "name": title,
        "description": (
            "Synthetic: no case was acquired from a patient. Painted by a generator that learned "
            f"from several sites without their images. {_CARD} has its limits. Audits: {audited}"
        ),
        "datePublished": f"{day}",
        "version": f"{day.year}.{day.month}.{day.day}",
    }
    own = folder / ("schema.json" if (folder / "schema.json").exists() else "dataset.json")
    about = json.loads(bounded_text(own))
    told = {"licence": release.licence, "creator": release.creator, "contact": release.contact}
    _replace(own, about | ({} if own.name == "schema.json" else told))
    with (folder / _CARD).open("a", encoding="utf-8") as card:
        card.write(
            f"\n## Publisher\n\n{plain(release.creator)}, {plain(release.contact)}. Licence: "
            f"{plain(release.licence)}.{f' Permitted use: {release.use}.' if release.use else ''}\n"
        )
    _replace(folder / CROISSANT, _croissant(folder, release, common, audited))
    _replace(folder / CRATE, _crate(folder, release, common))
    lines = [f"{_sha256(file)}  {file.relative_to(folder).as_posix()}\n" for file in _files(folder)]
    (folder / MANIFEST).write_text("".join(lines), "utf-8")


def _licence(release: Release, otherwise: str) -> str:
    """A page of the licence where there is one."""
    single = re.fullmatch(r"[\w.+-]+", release.licence)
    listed = single and not release.licence.startswith("LicenseRef-")
    return f"https://spdx.org/licenses/{release.licence}" if listed else otherwise


def _reached(release: Release) -> dict[str, str]:
    return {"url" if release.contact.startswith("http") else "email": release.contact}


def _used(release: Release) -> dict[str, str]:
    if not release.use:
        return {}
    return {"usageInfo": f"http://purl.obolibrary.org/obo/{release.use.replace(':', '_')}"}


def _croissant(
    folder: Path, release: Release, common: Mapping[str, Any], audited: str
) -> dict[str, Any]:
    files, sets = _resources(folder)
    return {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": [
            "http://mlcommons.org/croissant/1.1",
            "http://mlcommons.org/croissant/RAI/1.0",
        ],
        **common,
        "license": _licence(release, release.licence),
        "creator": {"@type": "sc:Organization", "name": release.creator, **_reached(release)},
        "publisher": {"@type": "sc:Organization", "name": release.creator},
        **_used(release),
        "citeAs": f"{release.creator}: {common['name']}, {common['version']}",
        "url": release.contact if release.contact.startswith("http") else "./",
        "rai:dataCollection": "Painted by a generative network from label maps; none was acquired.",
        "rai:dataCollectionType": "Synthetic data",
        "rai:hasSyntheticData": True,
        "rai:dataUseCases": "Training of segmentation and prediction models, and research.",
        "rai:dataLimitations": (
            "Rare findings of the sites may be missing. Not for diagnosis, and not a stand-in for "
            f"a validation on real patients. {_CARD} says more."
        ),
        "rai:dataBiases": "What the patients of the sites have in common, the set has too.",
        "rai:personalSensitiveInformation": f"Attacks before the release: {audited}",
        "distribution": files + sets,
        "recordSet": _records(folder, sets),
    }


def _resources(folder: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Single files, and sets of files in folders, as Croissant describes them."""
    single = [file for file in _files(folder) if file.parent == folder]
    files = [
        {
            "@type": "cr:FileObject",
            "@id": file.name,
            "name": file.name,
            "contentUrl": file.name,
            "contentSize": f"{file.stat().st_size} B",
            "encodingFormat": _type(file),
            "sha256": _sha256(file),
        }
        for file in single
        if file.name not in {CROISSANT, CRATE, MANIFEST}
    ]
    sets = [
        {
            "@type": "cr:FileSet",
            "@id": inside.name,
            "name": inside.name,
            "encodingFormat": _type(next(iter(sorted(inside.iterdir())))),
            "includes": f"{inside.relative_to(folder).as_posix()}/*",
        }
        for inside in _inner(folder)
    ]
    return files, sets


def _records(folder: Path, sets: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What a loader reads: each file of a folder with its name; or the columns of a table."""
    if not sets:
        schema = json.loads(bounded_text(folder / "schema.json"))
        table = next(file for file in _files(folder) if file.suffix == ".csv")
        fields = [
            {
                "@type": "cr:Field",
                "@id": f"records/{name}",
                "name": name,
                "dataType": "sc:Float" if column["kind"] == "numeric" else "sc:Text",
                "source": {"fileObject": {"@id": table.name}, "extract": {"column": name}},
            }
            for name, column in schema["columns"].items()
        ]
        return [{"@type": "cr:RecordSet", "@id": "records", "name": "records", "field": fields}]

    def field(inside: str, name: str, kind: str, extract: str) -> dict[str, Any]:
        return {
            "@type": "cr:Field",
            "@id": f"{inside}/{name}",
            "name": name,
            "dataType": kind,
            "source": {"fileSet": {"@id": inside}, "extract": {"fileProperty": extract}},
        }

    return [
        {
            "@type": "cr:RecordSet",
            "@id": f"files-{each['@id']}",
            "name": f"files-{each['@id']}",
            "field": [
                field(each["@id"], "filename", "sc:Text", "filename"),
                field(each["@id"], "image", "sc:ImageObject", "content")
                if each["encodingFormat"].startswith("image/")
                else field(each["@id"], "path", "sc:Text", "fullpath"),
            ],
        }
        for each in sets
    ]


def _crate(folder: Path, release: Release, common: Mapping[str, Any]) -> dict[str, Any]:
    """RO-Crate's graph: the set, who answers for it, its licence and its files."""
    files = [file for file in _files(folder) if file.parent == folder and file.name != CRATE]
    entities: list[dict[str, Any]] = [
        {"@id": file.name, "@type": "File", "name": file.name, "encodingFormat": _type(file)}
        for file in files
    ]
    entities += [
        {"@id": f"{inside.name}/", "@type": "Dataset", "name": inside.name}
        for inside in _inner(folder)
    ]
    agent, licence = "#creator", _licence(release, "#licence")
    return {
        "@context": "https://w3id.org/ro/crate/1.2/context",
        "@graph": [
            {
                "@id": CRATE,
                "@type": "CreativeWork",
                "conformsTo": {"@id": "https://w3id.org/ro/crate/1.2"},
                "about": {"@id": "./"},
            },
            {
                "@id": "./",
                "@type": "Dataset",
                **common,
                "license": {"@id": licence},
                "author": {"@id": agent},
                "publisher": {"@id": agent},
                **_used(release),
                "hasPart": [{"@id": entity["@id"]} for entity in entities],
            },
            {"@id": licence, "@type": "CreativeWork", "name": release.licence},
            {"@id": agent, "@type": "Organization", "name": release.creator,
             "contactPoint": {"@id": "#contact"}},
            {"@id": "#contact", "@type": "ContactPoint", "name": release.contact,
             **_reached(release)},
            *entities,
        ],
    }  # fmt: skip


def _files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.is_file() and file.name != MANIFEST)


def _inner(folder: Path) -> list[Path]:
    return sorted({file.parent for file in _files(folder)} - {folder})


def _type(file: Path) -> str:
    return _TYPES.get(file.suffix.lower(), "application/octet-stream")


def _sha256(path: Path) -> str:
    with opened(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _replace(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", "utf-8")
