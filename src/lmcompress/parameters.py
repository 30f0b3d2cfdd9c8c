"""Typed parameters: what a notebook or a run takes, refused before any work when a name, type or value is wrong.

The same class serves a notebook's variables, ``papermill -p``, a YAML file and Python. Text given for a field that is
not text is read as YAML, since ``papermill -p sparsities "[0.5]"`` passes the list as text.
"""

import re
from collections.abc import Collection, Mapping
from contextlib import suppress
from itertools import chain, islice
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from lmcompress import assets
from lmcompress.errors import ParameterError, did_you_mean
from lmcompress.prune.pattern import parse
from lmcompress.quantize import formats

_MOST_VALUES = 10**6
_NOT_PARAMETERS = {"In", "Out"}  # what IPython itself puts among a notebook's variables
_PLAIN = (str, int, float, bool, list, tuple, dict, type(None))


class Yaml(yaml.SafeLoader):
    """YAML where ``2:4`` is a text, ``1e-3`` a number and a name given twice an error. YAML 1.1 takes the first for a
    number to base 60 (124), the second for a text, and the last of two values.
    """

    yaml_implicit_resolvers: ClassVar = {
        first: [
            ("tag:yaml.org,2002:str", re.compile(r"\d+:\d+$")),
            ("tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$")),
            *known,
        ]
        for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[str, Any]:
        """The mapping. Raises yaml's ``ConstructorError`` for a name that it gives twice."""
        names = [one.value for one, _ in node.value if isinstance(one, yaml.ScalarNode) and one.value != "<<"]
        if twice := {name for name in names if names.count(name) > 1}:
            raise yaml.constructor.ConstructorError(
                None, None, f"{min(twice)} is given twice", node.start_mark
            )
        return super().construct_mapping(node, deep)


def read_yaml(text: str) -> Any:
    """What a YAML text says. Raises ``ValueError`` for what is no YAML, or holds no value (a date of month 13, a number
    of 5,000 digits, 1,000 lists in each other).
    """
    try:
        return yaml.load(text, Yaml)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(" ".join(str(error).split())) from None


def named(values: object, what: str) -> dict[str, Any]:
    """``values``, if that is a mapping of names, and :class:`ParameterError` otherwise; ``what`` it is of."""
    if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
        raise ParameterError(what, values, "a mapping of names to values, such as 'seeds: [0, 1]'")
    return values


def _model(name: str) -> str:
    assets.check_name(name, "model")
    return name


def _corpus(name: str) -> str:
    assets.check_name(name, "data")
    return name


def _distinct(values: tuple[Any, ...]) -> tuple[Any, ...]:
    if twice := [value for place, value in enumerate(values) if value in values[:place]]:
        raise ParameterError("values", twice[0], "each value once")
    return values


def _group(value: object) -> int | str:
    given: Any = int(value) if isinstance(value, str) and re.fullmatch("[0-9]{1,7}", value) else value
    return formats.Bits(8, given).group


def _width(bits: int) -> int:
    return formats.Bits(bits).bits


def one_of(names: Collection[str]) -> AfterValidator:
    """For a text that is one of ``names``, which its refusal lists."""

    def check(name: str) -> str:
        if name not in names:
            raise ParameterError("name", name, names)
        return name

    return AfterValidator(check)


_Item = TypeVar("_Item")

Flag = Annotated[bool, Field(strict=True)]
"""True or false, and nothing that could stand for them."""
Count = Annotated[int, Field(strict=True, ge=1, le=10**9)]
"""How many: at least 1. 1.0 and true are no counts."""
Whole = Annotated[int, Field(strict=True, ge=0, le=10**9)]
"""How many, where none is meant too."""
Sample = Annotated[int, Field(strict=True, ge=2, le=10**9)]
"""How many windows or texts are measured: an interval needs two."""
Length = Annotated[int, Field(strict=True, ge=2, le=2**20)]
"""Tokens of a window: one is predicted from the others."""
Rank = Annotated[int, Field(strict=True, ge=1, le=2**16)]
"""Rank of an adapter."""
Seed = Annotated[int, Field(strict=True, ge=0, lt=2**32)]
"""Of a generator of random numbers."""
Rate = Annotated[float, Field(strict=True, gt=0, lt=1)]
"""A learning rate."""
Share = Annotated[float, Field(strict=True, gt=0, le=1)]
"""A part of a whole that is not empty."""
Gigabytes = Annotated[float, Field(strict=True, gt=0, le=10**6)]
"""Memory of a machine."""
Average = Annotated[float, Field(strict=True, gt=0, le=16)]
"""Bits a weight, as a budget."""
Width = Annotated[int, Field(strict=True), AfterValidator(_width)]
"""Bits of a weight: one of :data:`lmcompress.quantize.formats.WIDTHS`."""
Group = Annotated[int | str, BeforeValidator(_group)]
"""Which weights share a scale: ``row``, ``tensor`` or a number of inputs, as in ``Bits``."""
FormatText = Annotated[str, BeforeValidator(lambda value: str(formats.parse(value)))]
"""A format of :mod:`lmcompress.quantize.formats` in its plain spelling."""
Many = Annotated[tuple[_Item, ...], AfterValidator(_distinct)]
"""``Many[Seed]``: values, each once, or none."""
Some = Annotated[tuple[_Item, ...], Field(min_length=1), AfterValidator(_distinct)]
"""``Some[Seed]``: at least one value, each once."""

ModelName = Annotated[str, AfterValidator(_model)]
"""A model that :func:`lmcompress.assets.resolve` may find."""
ModelOrNone = Annotated[str, AfterValidator(lambda name: name and _model(name))]
"""A model, or an empty text for none."""
CorpusName = Annotated[str, AfterValidator(_corpus)]
"""A corpus or classification set that :func:`lmcompress.assets.resolve` may find."""
QuestionsName = Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f]{0,1000}$")]
"""Where the questions of a task are, ``""`` for the hub. A folder that is not here is refused once it is read only:
what was published of it is shown without it.
"""
TaskName = Literal[
    "boolq", "rte", "hellaswag", "winogrande", "arc_easy", "arc_challenge", "openbookqa", "piqa"
]
"""A zero-shot task by lm-eval's name, see :data:`lmcompress.zeroshot.TASKS`."""
PatternText = Annotated[str, BeforeValidator(lambda value: str(parse(value)))]
"""A sparsity pattern in its plain spelling: ``0.5`` and ``"50%"`` are both ``"50%"``."""
PatternOrNone = Annotated[str, BeforeValidator(lambda value: value if value == "" else str(parse(value)))]
"""A pattern, or an empty text for none."""


class _Refused(ParameterError):
    """Of a whole class of parameters: within another one its field is named behind that of the other."""


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
        if (
            field is not None
            and isinstance(value, str)
            and value.strip()
            and not _takes_text(field.annotation)
        ):
            with suppress(ValueError):
                value = read_yaml(value)
        _refuse_odd(name, value)
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


def _refuse_odd(name: str, value: Any) -> None:
    """Raise :class:`ParameterError` for mappings whose keys are no names, and for what a few lines of YAML can stand
    for: lists that hold themselves, and billions of values.
    """
    level = [value]
    for _ in range(8):
        groups = [one for one in level if isinstance(one, Collection) and not isinstance(one, str | bytes)]
        for one in groups:
            if isinstance(one, Mapping) and (odd := [key for key in one if not isinstance(key, str)]):
                raise ParameterError(name, odd[0], "names, as texts")
        values = (one.values() if isinstance(one, Mapping) else one for one in groups)
        level = list(islice(chain.from_iterable(values), _MOST_VALUES + 1))
        if not level:
            return
        if len(level) > _MOST_VALUES:
            break
    raise ParameterError(
        name, value, f"at most {_MOST_VALUES:,} values, and less than 8 lists within each other"
    )


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
    """The first of pydantic's complaints as one of ours, about the field as its user wrote it: ``prune.pattern``. What
    is missing comes last: a name that is mistyped is missing, too.
    """
    first = min(error.errors(include_url=False), key=lambda one: one["type"] == "missing")
    field = ".".join(str(part) for part in first["loc"] if part != "[key]")
    context = first.get("ctx", {})
    cause = context.get("error")
    if isinstance(cause, ParameterError):
        inner = cause.field if isinstance(cause, _Refused) or not field else ""
        return _Refused(".".join(filter(None, (field, inner))), cause.value, cause.valid)
    if first["type"] == "extra_forbidden":
        valid = f"no such parameter; they are {', '.join(cls.model_fields)}"
        return _Refused(field, first["input"], valid + did_you_mean(field, cls.model_fields))
    if first["type"] == "missing":
        return _Refused(field, None, "a value: this parameter has no default")
    valid = re.sub(
        "^(Input|Tuple|Dictionary|List|String|Value error,?) (should )?(be |have )?", "", first["msg"]
    )
    if first["type"] == "literal_error":
        valid += did_you_mean(first["input"], re.findall("'([^']*)'", context["expected"]))
    return _Refused(field or cls.__name__, first["input"], valid)
