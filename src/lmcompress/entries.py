"""What ``assets.toml`` may say: read whole, or refused by file, entry and field."""

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from lmcompress.errors import AssetError

_Text = Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f]+$")]
_Name = Annotated[str, Field(pattern=r"^\w[\w.-]*$")]
_Package = Annotated[str, Field(pattern=r"^\w[\w.-]*==\w[\w.+!-]*$")]
_Pattern = Annotated[str, Field(pattern=r"^[\w*?.-][\w*?./\[\]-]*$")]
_SHA256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
_Commit = Annotated[str, Field(pattern="^[0-9a-f]{40}$")]
_Repository = Annotated[str, Field(pattern=r"^\w[\w.-]*/\w[\w.-]*$")]


class _Entry(BaseModel):
    """A member of pinned packages, or files of a hub repository at a commit."""

    model_config = ConfigDict(extra="forbid", strict=True)

    title: _Text
    licence: _Text
    origin: _Text
    note: str = ""
    default: bool = True
    package: _Package | Annotated[list[_Package], Field(min_length=1)] | None = None
    members: _Pattern | None = None
    join: _Name | None = None
    sha256: _SHA256 | None = None
    hub: _Repository | None = None
    files: _Pattern | None = None
    revision: _Commit | None = None
    of: _Name | None = None
    without: list[_Text] = []

    @model_validator(mode="after")
    def _comes_from_one_place(self) -> Self:
        if (self.package is None) == (self.hub is None):
            raise ValueError("either package or hub is needed")
        needed = ("members", "sha256") if self.package else ("revision",)
        if missing := [name for name in needed if getattr(self, name) is None]:
            raise ValueError(f"{' and '.join(missing)} is missing")
        for name in (self.members, self.files):
            if name and ".." in name.split("/"):
                raise ValueError(f"{name} leads out of its folder")
        return self


_FILE = TypeAdapter(dict[Literal["model", "data"], dict[_Name, _Entry]])


def read(path: Path) -> dict[str, dict[str, dict[str, Any]]]:
    """Kind -> name -> fields of every entry; one with ``of`` has those of that entry, too.

    Raises :class:`AssetError` that names file, entry and field.
    """
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
        made = {
            kind: {name: entries.get(entry.get("of"), {}) | entry for name, entry in entries.items()}
            for kind, entries in found.items()
        }
        _FILE.validate_python(made)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise AssetError(f"{path}, {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    except (OSError, ValueError, RecursionError, AttributeError, TypeError) as error:
        raise AssetError(f"{path}: not a TOML file of models and data ({error})") from None
    if missing := {"model", "data"} - made.keys():
        raise AssetError(f"{path}: no entries of the kind {min(missing)}")
    return made
