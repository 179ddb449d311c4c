"""Sparkplug's payload for protobuf, as the specification defines it (3.0.0, chapter 6, Google Protocol Buffer Schema).

Built at run time from its facts: names, numbers and types of the fields. DataSet, Template and the extension ranges,
which an edge node like ours never sends, are left out.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

# message -> (field, number, type); a type that is a message's name is that message, "*" means repeated
MESSAGES: dict[str, list[tuple[str, int, str]]] = {
    "Payload": [
        ("timestamp", 1, "uint64"),
        ("metrics", 2, "*Metric"),
        ("seq", 3, "uint64"),
        ("uuid", 4, "string"),
        ("body", 5, "bytes"),
    ],
    "Metric": [
        ("name", 1, "string"),
        ("alias", 2, "uint64"),
        ("timestamp", 3, "uint64"),
        ("datatype", 4, "uint32"),
        ("is_historical", 5, "bool"),
        ("is_transient", 6, "bool"),
        ("is_null", 7, "bool"),
        ("metadata", 8, "MetaData"),
        ("properties", 9, "PropertySet"),
        ("int_value", 10, "uint32"),
        ("long_value", 11, "uint64"),
        ("float_value", 12, "float"),
        ("double_value", 13, "double"),
        ("boolean_value", 14, "bool"),
        ("string_value", 15, "string"),
        ("bytes_value", 16, "bytes"),
    ],
    "MetaData": [
        ("is_multi_part", 1, "bool"),
        ("content_type", 2, "string"),
        ("size", 3, "uint64"),
        ("seq", 4, "uint64"),
        ("file_name", 5, "string"),
        ("file_type", 6, "string"),
        ("md5", 7, "string"),
        ("description", 8, "string"),
    ],
    "PropertySet": [("keys", 1, "*string"), ("values", 2, "*PropertyValue")],
    "PropertyValue": [
        ("type", 1, "uint32"),
        ("is_null", 2, "bool"),
        ("int_value", 3, "uint32"),
        ("long_value", 4, "uint64"),
        ("float_value", 5, "float"),
        ("double_value", 6, "double"),
        ("boolean_value", 7, "bool"),
        ("string_value", 8, "string"),
    ],
}
DATA_TYPES = {"Int32": 3, "Int64": 4, "Float": 9, "Double": 10, "Boolean": 11, "String": 12}
ONE_OF = {"Metric": range(10, 20), "PropertyValue": range(3, 12)}  # the numbers of the fields of oneof "value"

_FIELD = descriptor_pb2.FieldDescriptorProto
_TYPES = {
    "uint32": _FIELD.TYPE_UINT32,
    "uint64": _FIELD.TYPE_UINT64,
    "bool": _FIELD.TYPE_BOOL,
    "float": _FIELD.TYPE_FLOAT,
    "double": _FIELD.TYPE_DOUBLE,
    "string": _FIELD.TYPE_STRING,
    "bytes": _FIELD.TYPE_BYTES,
}
_PACKAGE = "org.eclipse.tahu.protobuf"


def _file() -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(name="sparkplug_b.proto", package=_PACKAGE, syntax="proto2")
    for message, its_fields in MESSAGES.items():
        described = file.message_type.add(name=message)
        if message in ONE_OF:
            described.oneof_decl.add(name="value")
        for name, number, type_name in its_fields:
            repeated, plain = type_name.startswith("*"), type_name.lstrip("*")
            field = described.field.add(name=name, number=number)
            field.label = _FIELD.LABEL_REPEATED if repeated else _FIELD.LABEL_OPTIONAL
            if plain in _TYPES:
                field.type = _TYPES[plain]
            else:
                field.type, field.type_name = _FIELD.TYPE_MESSAGE, f".{_PACKAGE}.{plain}"
            if number in ONE_OF.get(message, ()):
                field.oneof_index = 0
    return file


_POOL = descriptor_pool.DescriptorPool()
_POOL.Add(_file())
Payload: Any = message_factory.GetMessageClass(_POOL.FindMessageTypeByName(f"{_PACKAGE}.Payload"))


def decode(payload: bytes) -> Any:
    """A payload as protobuf reads it; fails where there is a field that the definition does not have."""
    message = Payload.FromString(payload)
    # Encoded anew without what is unknown, it has to be as long.
    stripped = Payload.FromString(payload)
    stripped.DiscardUnknownFields()
    assert stripped.ByteSize() == len(payload), "fields that Sparkplug does not define"
    return message
