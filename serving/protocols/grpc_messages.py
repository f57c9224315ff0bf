"""The messages of open_inference.proto, made from the file itself when gRPC is served.

They live in a pool of their own: code that protoc generated for another server of this protocol registers the same
names for the whole process, and whichever came second would fail.
"""

import re
from functools import cache
from pathlib import Path
from typing import Any, Final

from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

SOURCE: Final = Path(__file__).with_name("open_inference.proto")
SERVICE: Final = "inference.GRPCInferenceService"
_TOKEN: Final = re.compile(r'"[^"]*"|[\w.]+|[{}()<>=;,]')
_SCALARS: Final = ("bool", "bytes", "double", "float", "int32", "int64", "string", "uint32", "uint64")


@cache
def message(name: str) -> Any:
    """A message's class, by its name in the file."""
    return GetMessageClass(_pool().FindMessageTypeByName(f"inference.{name}"))


@cache
def methods() -> dict[str, tuple[Any, Any]]:
    """The service's methods: the classes of request and response by name."""
    found = _pool().FindServiceByName(SERVICE).methods
    return {one.name: (GetMessageClass(one.input_type), GetMessageClass(one.output_type)) for one in found}


@cache
def _pool() -> DescriptorPool:
    pool = DescriptorPool()
    pool.Add(file_of(SOURCE.read_text(encoding="utf-8")))
    return pool


def file_of(source: str) -> FileDescriptorProto:
    """What a file says, as long as it says no more than this protocol needs: one service, messages, maps and oneofs."""
    tokens = _TOKEN.findall(re.sub(r"//.*", "", source))
    file = FileDescriptorProto(name=SOURCE.name)
    words = iter(tokens)
    for word in words:
        if word == "syntax":
            _, quoted, _ = (next(words) for _ in range(3))
            file.syntax = quoted.strip('"')
        elif word == "package":
            file.package, _ = (next(words) for _ in range(2))
        elif word == "service":
            _read_service(words, file)
        elif word == "message":
            _read_message(words, file.message_type.add(), scope=f".{file.package}")
    return file


def _read_service(words: Any, file: FileDescriptorProto) -> None:
    service = file.service.add(name=next(words))
    assert next(words) == "{", "a service has a body"
    while next(words) == "rpc":
        name, _, given, _, _, _, answered, _, _, _ = (next(words) for _ in range(10))
        scope = f".{file.package}."
        service.method.add(name=name, input_type=scope + given, output_type=scope + answered)


def _read_message(words: Any, into: DescriptorProto, *, scope: str) -> None:
    into.name = next(words)
    own = f"{scope}.{into.name}"
    assert next(words) == "{", "a message has a body"
    choice = -1  # the oneof that the fields are of
    while (word := next(words)) != "}" or choice >= 0:
        if word == "}":
            choice = -1
        elif word == "message":
            _read_message(words, into.nested_type.add(), scope=own)
        elif word == "oneof":
            into.oneof_decl.add(name=next(words))
            choice = len(into.oneof_decl) - 1
            next(words)
        else:
            field = _read_field(word, words, into, own=own)
            if choice >= 0:
                field.oneof_index = choice


def _read_field(word: str, words: Any, into: DescriptorProto, *, own: str) -> FieldDescriptorProto:
    """`[repeated] TYPE NAME = NUMBER;` or `map<KEY, VALUE> NAME = NUMBER;`"""
    several, entry = word == "repeated", None
    kind = next(words) if several else word
    if kind == "map":
        _, key, _, value, _ = (next(words) for _ in range(5))
        entry = (key, value)
    name, _, number, _ = (next(words) for _ in range(4))
    field = into.field.add(name=name, number=int(number))
    field.label = field.LABEL_REPEATED if several or entry else field.LABEL_OPTIONAL
    if entry:
        kind = "".join(part.capitalize() for part in name.split("_")) + "Entry"
        made = into.nested_type.add(name=kind)
        made.options.map_entry = True
        for place, (part, of) in enumerate(zip(("key", "value"), entry, strict=True), start=1):
            _set_type(made.field.add(name=part, number=place, label=field.LABEL_OPTIONAL), of, made, own=own)
    _set_type(field, kind, into, own=own)
    return field


def _set_type(field: FieldDescriptorProto, kind: str, into: DescriptorProto, *, own: str) -> None:
    if kind in _SCALARS:
        field.type = getattr(field, f"TYPE_{kind.upper()}")
        return
    field.type = field.TYPE_MESSAGE
    nested = any(one.name == kind for one in into.nested_type)
    field.type_name = f"{own}.{kind}" if nested else f".{own.split('.')[1]}.{kind}"
