"""Typed parameters: what a notebook or a run takes, refused before any work when a name, type or value is wrong.

The same class serves a notebook's variables, ``papermill -p``, a YAML file and Python. Text given for a field that is
not text is read as YAML, since ``papermill -p sparsities "[0.5]"`` passes the list as text.
"""

import difflib
import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, ValidationError, model_validator

from lmcompress import assets
from lmcompress.errors import ParameterError
from lmcompress.prune.pattern import parse

_NOT_PARAMETERS = {"In", "Out"}  # what IPython itself puts among a notebook's variables
_PLAIN = (str, int, float, bool, list, tuple, dict, type(None))


class Yaml(yaml.SafeLoader):
    """YAML where ``2:4`` is a text. YAML 1.1 takes it for a number to base 60, 124."""

    yaml_implicit_resolvers: ClassVar = {
        first: [("tag:yaml.org,2002:str", re.compile(r"\d+:\d+$")), *known]
        for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


def _model(name: str) -> str:
    assets.check_name(name, "model")
    return name


def _corpus(name: str) -> str:
    assets.check_name(name, "data")
    return name


ModelName = Annotated[str, AfterValidator(_model)]
"""A model that :func:`lmcompress.assets.resolve` may find."""
CorpusName = Annotated[str, AfterValidator(_corpus)]
"""A corpus or classification set that :func:`lmcompress.assets.resolve` may find."""
TaskName = Literal[
    "boolq", "rte", "hellaswag", "winogrande", "arc_easy", "arc_challenge", "openbookqa", "piqa"
]
"""A zero-shot task by lm-eval's name, see :data:`lmcompress.zeroshot.TASKS`."""
PatternText = Annotated[str, BeforeValidator(lambda value: str(parse(value)))]
"""A sparsity pattern in its plain spelling: ``0.5`` and ``"50%"`` are both ``"50%"``."""


class Parameters(BaseModel):
    """Base of all parameter classes: immutable, no unknown names, errors as :class:`ParameterError`."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, protected_namespaces=())

    def __init__(self, **values: Any):
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise _refusal(type(self), error) from None

    @model_validator(mode="before")
    @classmethod
    def _read_text(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        return {name: cls._from_text(name, value) for name, value in values.items()}

    @classmethod
    def _from_text(cls, name: str, value: Any) -> Any:
        field = cls.model_fields.get(name)
        if field is None or not isinstance(value, str) or _takes_text(field.annotation):
            return value
        try:
            return yaml.load(value, Yaml)
        except yaml.YAMLError:
            return value

    @classmethod
    def of(cls, variables: Mapping[str, Any]) -> Self:
        """The parameters among a notebook's variables (``globals()``), at its first cell after the parameters.

        Raises :class:`ParameterError` for a wrong value and for a variable that is no parameter: one mistyped after
        ``-p`` would otherwise go unnoticed.
        """
        given = {
            name: value
            for name, value in variables.items()
            if not name.startswith("_") and name not in _NOT_PARAMETERS and isinstance(value, _PLAIN)
        }
        return cls(**given)


def _takes_text(annotation: Any) -> bool:
    """Whether a value of this type may be text itself (``str``, a literal, a union with one)."""
    if annotation is str:
        return True
    inside = getattr(annotation, "__args__", ())
    origin = getattr(annotation, "__origin__", None)
    if origin in (list, tuple, dict):
        return False
    return any(isinstance(part, str) or _takes_text(part) for part in inside)


def _refusal(cls: type[Parameters], error: ValidationError) -> ParameterError:
    """The first of pydantic's complaints as one of ours."""
    first = error.errors()[0]
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, ParameterError):
        field = ".".join(map(str, first["loc"])) or cause.field
        return ParameterError(field, cause.value, cause.valid)
    field = ".".join(map(str, first["loc"])) or cls.__name__
    if first["type"] == "extra_forbidden":
        near = difflib.get_close_matches(field, cls.model_fields, 1)
        meant = f"; did you mean {near[0]}?" if near else ""
        return ParameterError(
            field, first["input"], f"no such parameter; they are {', '.join(cls.model_fields)}{meant}"
        )
    return ParameterError(field, first["input"], first["msg"][0].lower() + first["msg"][1:])
