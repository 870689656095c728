"""JSON records on one side, TFDS features on the other: what a record must look like, checked value by value.

A `Schema` is the small tree between the two. It comes from a TFDS builder's features (`from_features`), from a
manifest's `fields` (`from_fields`), or from the records themselves (`Inference`), and it becomes a checker (`checker`)
or TFDS features (`to_features`).

TFDS keeps no null, so a field marked optional (`"answer?"`) that is missing or null is stored as the empty value of
its type. tf.train.Example holds floats in 32 bits (`float_list`), therefore inferred fractions are float32: a float64
feature would promise digits that the file has already lost.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, cast

from flan_jax import errors

_INTEGER_RANGES = {
    "int8": (-(2**7), 2**7 - 1),
    "int16": (-(2**15), 2**15 - 1),
    "int32": (-(2**31), 2**31 - 1),
    "int64": (-(2**63), 2**63 - 1),
    "uint8": (0, 2**8 - 1),
    "uint16": (0, 2**16 - 1),
    "uint32": (0, 2**32 - 1),
    "uint64": (0, 2**64 - 1),
}
_FLOATS = ("float16", "float32", "float64", "bfloat16")
_FLOAT32_MAX = 3.4028234663852886e38
_FIELD_TYPES = {"string": "string", "int": "int64", "float": "float32", "bool": "bool"}
_SCALARS = ("string", "bool", *_INTEGER_RANGES, *_FLOATS)


@dataclasses.dataclass(frozen=True)
class Scalar:
    """One string, bool, integer or float; `dtype` is the numpy name, or `string`."""

    dtype: str


@dataclasses.dataclass(frozen=True)
class Label:
    """A class label, given as an integer; -1 is TFDS's mark for an unlabelled row."""

    count: int
    names: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Words:
    """A field that holds one of several scalar types (`"bool|string"`), stored as text: `true`, `false`, the digits."""

    dtypes: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class List:
    """A list of any length, or of exactly `length`; `element` is None while only empty lists have been seen."""

    element: "Schema | None"
    length: int | None = None


@dataclasses.dataclass(frozen=True)
class Struct:
    """An object with exactly these fields; those in `optional` may be missing or null."""

    fields: Mapping[str, "Schema"]
    optional: frozenset[str] = frozenset()


@dataclasses.dataclass(frozen=True)
class Opaque:
    """Any other TFDS feature (an image, a box): the feature itself judges the value."""

    feature: Any


Schema = Scalar | Label | Words | List | Struct | Opaque


class Mismatch(Exception):
    """A value that does not fit; `field` is filled in from the inside out: `choices[2].text`, or empty."""

    def __init__(self, given: str, expected: str, field: str = "") -> None:
        super().__init__(given, expected)
        self.given = given
        self.expected = expected
        self.field = field

    def inside(self, outer: str) -> "Mismatch":
        """Prefixes the field with a name or an `[index]`."""
        joint = "." if self.field and not self.field.startswith("[") else ""
        self.field = f"{outer}{joint}{self.field}"
        return self

    def __str__(self) -> str:
        where = f"field {self.field!r}: " if self.field else ""
        return f"{where}given {self.given}; expected {self.expected}"


def shown(value: Any, width: int = 80) -> str:
    """Returns how a value of a record is quoted in an error: its type and its JSON-like text, cut at `width`."""
    if value is None:
        return "null"
    text = repr(value)
    text = text if len(text) <= width else text[: width - 3] + "..."
    kinds = {str: "string", bool: "bool", int: "integer", float: "float", list: "list", dict: "object"}
    return f"the {kinds.get(type(value), type(value).__name__)} {text}"


def describe(schema: "Schema | None") -> str:
    """Returns a schema in words, for the `expected` part of an error."""
    match schema:
        case Scalar("string"):
            return "a string"
        case Scalar("bool"):
            return "true or false"
        case Scalar(dtype) if dtype in _INTEGER_RANGES:
            return f"an integer ({dtype})"
        case Scalar(dtype):
            return f"a number ({dtype})"
        case Label(count, names):
            listed = ", ".join(f"{index} {name}" for index, name in enumerate(names[:12]) if name != str(index))
            more = ", ..." if len(names) > 12 and listed else ""
            meaning = f" ({listed}{more})" if listed else ""
            return f"a class label, an integer 0 to {count - 1}{meaning}, or -1 for none"
        case Words(dtypes):
            return " or ".join(describe(Scalar(dtype)) for dtype in dtypes)
        case List(Struct() as element, _):
            return f"a list of objects, or an object of equally long lists, with the fields {', '.join(element.fields)}"
        case List(element, length):
            return f"a list of {f'{length} values' if length else 'any length'}, each {describe(element)}"
        case Struct(fields):
            return f"an object with the fields {', '.join(fields)}"
        case Opaque(feature):
            return f"a value for the TFDS feature {type(feature).__name__}"
        case _:
            return "a string"


def from_features(feature: Any) -> Schema:
    """Returns the schema of a TFDS feature, usually a builder's whole `FeaturesDict`."""
    import numpy as np
    import tensorflow_datasets as tfds

    if isinstance(feature, tfds.features.FeaturesDict):
        return Struct({name: from_features(feature[name]) for name in list(feature.keys())})
    if isinstance(feature, tfds.features.ClassLabel) and feature.num_classes is not None:
        return Label(feature.num_classes, tuple(feature.names))
    if isinstance(feature, tfds.features.Sequence):
        return List(from_features(feature.feature), getattr(feature, "_length", None))
    # Subclasses of Tensor (Image, BBox) encode in their own ways, hence the exact types.
    if type(feature) in (tfds.features.Tensor, tfds.features.Scalar, tfds.features.Text) and feature.shape == ():
        dtype = np.dtype(cast(Any, feature.np_dtype)).name
        dtype = "string" if dtype == "object" else dtype
        if dtype in _SCALARS:
            return Scalar(dtype)
    return Opaque(feature)


def from_fields(fields: Any, where: str = "fields") -> Schema:
    """Returns the schema that a manifest's `fields` describe.

    A type is `"string"`, `"int"`, `"float"`, `"bool"` (or a numpy name such as `"int32"`), several joined by `|`, a
    list of one type, or an object of named types; a name that ends in `?` may be missing.

    Raises:
      FlanError: for anything else, naming the place.
    """
    if isinstance(fields, str):
        dtypes = []
        for name in fields.split("|"):
            if name not in _FIELD_TYPES and name not in _SCALARS:
                raise errors.unknown(f"field type at {where}", name, [*_FIELD_TYPES, *_SCALARS])
            dtypes.append(_FIELD_TYPES.get(name, name))
        return Scalar(dtypes[0]) if len(dtypes) == 1 else Words(tuple(dtypes))
    if isinstance(fields, list) and len(fields) == 1:
        return List(from_fields(fields[0], f"{where}[]"))
    if isinstance(fields, dict) and fields:
        found = {}
        for name, kind in fields.items():
            plain = name.removesuffix("?")
            _check_name(plain, where)
            found[plain] = from_fields(kind, f"{where}.{plain}")
        return Struct(found, frozenset(name[:-1] for name in fields if name.endswith("?")))
    raise errors.FlanError(
        f"{where}: given {shown(fields)}; expected a type name, a list of one type, or an object of named types"
    )


def _check_name(name: str, where: str) -> None:
    # TFDS joins nested names with a slash in the file; a slash inside a name would make two fields one.
    if not name or "/" in name:
        raise errors.FlanError(f"{where}: given the field name {name!r}; expected a non-empty name without '/'")


class Inference:
    """The schema of records that nothing describes, learned record by record.

    Every record must have the fields of the first. Integers and fractions in one field make it float32; a list that is
    empty in every record is taken as a list of strings.
    """

    def __init__(self) -> None:
        self._schema: Schema | None = None

    def add(self, record: Mapping[str, Any]) -> None:
        """Takes one record in.

        Raises:
          Mismatch: if the record contradicts the earlier ones or holds what TFDS cannot (null, an empty object).
        """
        self._schema = _merge(self._schema, record)

    def schema(self) -> Struct:
        """Returns the schema of all records so far; there must have been one."""
        assert isinstance(self._schema, Struct), "schema() before any record"
        settled = _settle(self._schema)
        assert isinstance(settled, Struct)
        return settled


def _merge(known: Schema | None, value: Any) -> Schema:
    """Returns the schema that fits both `known` and `value`; None is 'nothing known'."""
    if isinstance(value, dict):
        return _merge_struct(known, value)
    if isinstance(value, list):
        if not isinstance(known, List | None):
            raise Mismatch(shown(value), f"{describe(known)}, as in earlier records")
        element = known.element if known else None
        for index, item in enumerate(value):
            try:
                element = _merge(element, item)
            except Mismatch as problem:
                raise problem.inside(f"[{index}]") from None
        return List(element)
    kinds = {str: "string", bool: "bool", int: "int64", float: "float32"}
    if type(value) not in kinds:
        raise Mismatch(shown(value), "a value: without `fields` in the manifest, null has no type")
    found = Scalar(kinds[type(value)])
    if known is None or known == found:
        return found
    if isinstance(known, Scalar) and {known.dtype, found.dtype} == {"int64", "float32"}:
        return Scalar("float32")
    raise Mismatch(shown(value), f"{describe(known)}, as in earlier records")


def _merge_struct(known: Schema | None, value: Mapping[str, Any]) -> Struct:
    if not isinstance(known, Struct | None):
        raise Mismatch(shown(value), f"{describe(known)}, as in earlier records")
    if not value:
        raise Mismatch("an object without fields", "at least one field")
    if known and known.fields.keys() != value.keys():
        for name in known.fields:
            if name not in value:
                raise Mismatch(
                    "nothing (the field is missing)", f"{describe(known.fields[name])}, as in earlier records", name
                )
        name = next(name for name in value if name not in known.fields)
        raise Mismatch(shown(value[name]), f"no such field{errors.nearest(name, known.fields)}", name)
    fields = {}
    for name, item in value.items():
        if not name or "/" in name:
            raise Mismatch(f"the field name {name!r}", "a non-empty name without '/'")
        try:
            fields[name] = _merge(known.fields[name] if known else None, item)
        except Mismatch as problem:
            raise problem.inside(name) from None
    return Struct(fields)


def _settle(schema: Schema | None) -> Schema:
    match schema:
        case None:
            return Scalar("string")
        case List(element, length):
            return List(_settle(element), length)
        case Struct(fields, optional):
            return Struct({name: _settle(kind) for name, kind in fields.items()}, optional)
        case _:
            return schema


def to_features(schema: Schema) -> Any:
    """Returns the TFDS features of a schema, a `FeaturesDict` for a `Struct`.

    A list of objects becomes a `Sequence` of a dict, which TFDS reads back as a dict of lists.
    """
    import numpy as np
    import tensorflow_datasets as tfds

    match schema:
        case Scalar("string") | Words():
            return tfds.features.Text()
        case Scalar(dtype):
            return tfds.features.Scalar(np.dtype(dtype).type)
        case Label(count, names):
            return tfds.features.ClassLabel(names=list(names)) if names else tfds.features.ClassLabel(num_classes=count)
        case List(element, length):
            return tfds.features.Sequence(to_features(_settle(element)), length=length)
        case Struct(fields):
            return tfds.features.FeaturesDict({name: to_features(kind) for name, kind in fields.items()})
        case Opaque(feature):
            return feature


def checker(schema: Schema) -> Callable[[Any], Any]:
    """Returns the function that checks one value and returns it as TFDS's `encode_example` takes it.

    The tree is turned into closures once, because every value of every record goes through it. The function raises
    `Mismatch`.
    """
    expected = describe(schema)
    match schema:
        case Scalar("string"):
            return lambda value: _text(value, expected)
        case Scalar("bool"):
            return lambda value: value if type(value) is bool else _refuse(value, expected)
        case Scalar(dtype) if dtype in _INTEGER_RANGES:
            low, high = _INTEGER_RANGES[dtype]
            # `type is int`: a Python bool is an int, and `true` for an index is a mistake.
            return lambda value: value if type(value) is int and low <= value <= high else _refuse(value, expected)
        case Scalar():
            return lambda value: (
                float(value) if type(value) in (int, float) and abs(value) <= _FLOAT32_MAX else _refuse(value, expected)
            )
        case Label(count):
            return lambda value: value if type(value) is int and -1 <= value < count else _refuse(value, expected)
        case Words(dtypes):
            return _check_words(dtypes, expected)
        case List():
            return _check_list(schema, expected)
        case Struct():
            return _check_struct(schema, expected)
        case Opaque(feature):
            return _check_opaque(feature, expected)


def _refuse(value: Any, expected: str) -> Any:
    raise Mismatch(shown(value), expected)


def _text(value: Any, expected: str) -> bytes:
    if type(value) is not str:
        raise Mismatch(shown(value), expected)
    try:
        return value.encode()
    except UnicodeEncodeError:  # JSON can spell half of a surrogate pair ("\ud800"), UTF-8 cannot.
        raise Mismatch(shown(value), "a string without unpaired surrogates") from None


def _check_words(dtypes: tuple[str, ...], expected: str) -> Callable[[Any], bytes]:
    checks = [(dtype, checker(Scalar(dtype))) for dtype in dtypes]

    def check(value: Any) -> bytes:
        for dtype, accept in checks:
            try:
                accepted = accept(value)
            except Mismatch:
                continue
            if dtype == "string":
                return accepted
            return (str(value).lower() if dtype == "bool" else repr(value)).encode()
        raise Mismatch(shown(value), expected)

    return check


def _check_list(schema: List, expected: str) -> Callable[[Any], list]:
    element = _settle(schema.element)
    check_element = checker(element)

    def check(value: Any) -> list:
        if isinstance(value, dict) and isinstance(element, Struct):
            value = _rows(value, element)
        if not isinstance(value, list) or (schema.length is not None and len(value) != schema.length):
            raise Mismatch(shown(value), expected)
        found = []
        for item in value:
            try:
                found.append(check_element(item))
            except Mismatch as problem:
                raise problem.inside(f"[{len(found)}]") from None
        return found

    return check


def _rows(columns: Mapping[str, Any], struct: Struct) -> list[dict[str, Any]]:
    """Turns an object of lists, TFDS's form of a list of objects, into the list of objects.

    >>> _rows({"label": [0, 1], "text": ["no", "yes"]}, ...)
    [{"label": 0, "text": "no"}, {"label": 1, "text": "yes"}]
    """
    lists: dict[str, list] = {}
    for name, column in columns.items():
        kind = struct.fields.get(name)
        if isinstance(column, dict) and isinstance(kind, Struct):
            try:
                column = _rows(column, kind)
            except Mismatch as problem:
                raise problem.inside(name) from None
        if not isinstance(column, list):
            raise Mismatch(shown(column), "a list with one value for each object", name)
        lists[name] = column
    missing = next((name for name in struct.fields if name not in columns and name not in struct.optional), None)
    if missing is not None:
        raise Mismatch("nothing (the field is missing)", f"a list, each {describe(struct.fields[missing])}", missing)
    lengths = {name: len(column) for name, column in lists.items()}
    if len(set(lengths.values())) > 1:
        raise Mismatch(
            ", ".join(f"{length} values of {name}" for name, length in lengths.items()), "lists of equal length"
        )
    return [dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=True)]


def _check_struct(schema: Struct, expected: str) -> Callable[[Any], dict]:
    checks = {name: checker(kind) for name, kind in schema.fields.items()}

    def check(value: Any) -> dict:
        if not isinstance(value, dict):
            raise Mismatch(shown(value), expected)
        if value.keys() - checks.keys():
            name = next(name for name in value if name not in checks)
            raise Mismatch(shown(value[name]), f"no such field{errors.nearest(name, checks)}", name)
        found = {}
        for name, check_field in checks.items():
            item = value.get(name)
            if item is None and name in schema.optional:
                found[name] = _empty(schema.fields[name])
                continue
            if item is None and name not in value:
                raise Mismatch("nothing (the field is missing)", describe(schema.fields[name]), name)
            try:
                found[name] = check_field(item)
            except Mismatch as problem:
                raise problem.inside(name) from None
        return found

    return check


def _empty(schema: Schema | None) -> Any:
    match schema:
        case Scalar("bool"):
            return False
        case Scalar(dtype) if dtype in _INTEGER_RANGES:
            return 0
        case Scalar(dtype) if dtype in _FLOATS:
            return 0.0
        case Label():
            return -1
        case List():
            return []
        case Struct(fields):
            return {name: _empty(kind) for name, kind in fields.items()}
        case _:
            return ""


def _check_opaque(feature: Any, expected: str) -> Callable[[Any], Any]:
    def check(value: Any) -> Any:
        try:
            feature.encode_example(value)
        except Exception as problem:  # The feature is third-party code; whatever it raises means "not mine".
            raise Mismatch(shown(value), f"{expected} ({problem})") from None
        return value

    return check
