"""Owns the private descriptor pool, filled from descriptors.binpb (bin/genproto made it), and makes its classes.

descriptors.binpb is a serialized google.protobuf.FileDescriptorSet: for each file, dependencies first,

    0x0A | length, a varint | FileDescriptorProto

It is split by hand: the class for it lives in descriptor_pb2, which costs a fifth of protobuf's own import time.
"""

from collections.abc import Iterator
from pathlib import Path

from google.protobuf import message_factory
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper

FILE_TAG = 0x0A


def split(file_set: bytes) -> Iterator[bytes]:
    """Each file's serialized descriptor. Raises ValueError on anything that is not a file set."""
    at = 0
    while at < len(file_set):
        if file_set[at] != FILE_TAG:
            raise ValueError(f"not a FileDescriptorSet: byte {file_set[at]:#x} at {at}")
        at += 1
        length = shift = 0
        while True:
            byte = file_set[at]
            at += 1
            length |= (byte & 0x7F) << shift
            if byte < 0x80:
                break
            shift += 7
        yield file_set[at : at + length]
        at += length


def load() -> DescriptorPool:
    """A new pool that holds every file of descriptors.binpb."""
    pool = DescriptorPool()
    for file in split(Path(__file__).with_name("descriptors.binpb").read_bytes()):
        pool.AddSerializedFile(file)
    return pool


POOL = load()


def publish(namespace: dict[str, object], *files: str) -> None:
    """Puts into a module what protoc's Python defines for `files`: messages, enums, and the enums' values as ints."""
    for name in files:
        file = POOL.FindFileByName(name)
        for message in file.message_types_by_name.values():
            namespace[message.name] = message_factory.GetMessageClass(message)
        for enum in file.enum_types_by_name.values():
            namespace[enum.name] = EnumTypeWrapper(enum)
            namespace.update((value.name, value.number) for value in enum.values)
