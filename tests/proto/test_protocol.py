"""Our .proto files say what upstream's do, and live beside upstream's client in one process."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor, FileDescriptor
from rocketmq.grpc_protocol import definition_pb2, service_pb2

from rmq_proto import health, reflection, v2
from rmq_proto.pool import split

ROOT = Path(__file__).resolve().parents[2]

NEWER_THAN_CLIENT = {
    "apache.rocketmq.v2.Code.INVALID_CLIENT_PROPERTIES = 40021",
    "apache.rocketmq.v2.Settings.client_properties = 9: repeated message "
    "apache.rocketmq.v2.Settings.ClientPropertiesEntry",
    "apache.rocketmq.v2.Settings.ClientPropertiesEntry.key = 1: string",
    "apache.rocketmq.v2.Settings.ClientPropertiesEntry.value = 2: string",
}
"""rocketmq-apis 2.2.0 has these; the client in this environment was made from an earlier one."""

TYPES = {value: name[5:].lower() for name, value in vars(FieldDescriptor).items() if name.startswith("TYPE_")}


def of_field(field: FieldDescriptor) -> str:
    """With its oneof; an optional field has one of its own, named after it."""
    kind = field.message_type or field.enum_type
    words = [
        "repeated" if field.is_repeated else "",
        f"oneof {field.containing_oneof.name}" if field.containing_oneof else "",
        TYPES[field.type],
        kind.full_name if kind else "",
    ]
    return f"{field.full_name} = {field.number}: {' '.join(word for word in words if word)}"


def of_enum(enum: EnumDescriptor) -> Iterator[str]:
    """One line a value."""
    yield from (f"{enum.full_name}.{value.name} = {value.number}" for value in enum.values)


def of_message(message: Descriptor) -> Iterator[str]:
    """One line a field, nested types included."""
    yield from map(of_field, message.fields)
    for enum in message.enum_types:
        yield from of_enum(enum)
    for nested in message.nested_types:
        yield from of_message(nested)


def of_file(file: FileDescriptor) -> Iterator[str]:
    """One line for each thing that the wire or a generated class depends on."""
    for message in file.message_types_by_name.values():
        yield message.full_name
        yield from of_message(message)
    for enum in file.enum_types_by_name.values():
        yield from of_enum(enum)
    for service in file.services_by_name.values():
        for method in service.methods:
            ends = (method.client_streaming, method.server_streaming)
            yield f"{method.full_name}({method.input_type.full_name}) -> {method.output_type.full_name}, streams {ends}"


@pytest.mark.parametrize("name", ["definition", "service"])
def test_same_protocol_as_the_official_client(name: str) -> None:
    """Each message, field (name, number, type, label, presence, oneof), enum value, method is upstream's; and back."""
    theirs = {"definition": definition_pb2.DESCRIPTOR, "service": service_pb2.DESCRIPTOR}[name]
    ours = set(of_file(v2.POOL.FindFileByName(f"apache/rocketmq/v2/{name}.proto")))
    newer = NEWER_THAN_CLIENT if name == "definition" else set()
    assert ours - set(of_file(theirs)) == newer
    assert set(of_file(theirs)) - ours == set()


def test_there_are_17_calls() -> None:
    """Nothing of the service was forgotten."""
    assert len(v2.POOL.FindServiceByName("apache.rocketmq.v2.MessagingService").methods) == 17


def test_only_upstreams_two_files() -> None:
    """Whoever points protoc at the folder gets the protocol and nothing else."""
    folder = ROOT / "proto/apache/rocketmq/v2"
    assert sorted(path.name for path in folder.iterdir()) == ["definition.proto", "service.proto"]


def test_generated_files_are_up_to_date() -> None:
    """descriptors.binpb and the stubs are what bin/genproto makes of the .proto files."""
    check = subprocess.run(
        [sys.executable, ROOT / "bin/genproto", "--check"], capture_output=True, text=True, timeout=60
    )
    assert (check.returncode, check.stderr) == (0, "")


@pytest.mark.parametrize("first", ["rocketmq.grpc_protocol.service_pb2", "rmq_proto.v2"])
def test_lives_beside_the_official_client(first: str) -> None:
    """Both register package apache.rocketmq.v2, in either order, and neither sees the other's classes."""
    other = {"rmq_proto.v2": "rocketmq.grpc_protocol.service_pb2"}.get(first, "rmq_proto.v2")
    code = f"""
import sys, importlib
sys.path[:0] = [{str(ROOT / "proto")!r}]
importlib.import_module({first!r}); importlib.import_module({other!r})
from rmq_proto import v2
from rocketmq.grpc_protocol import service_pb2
ours = v2.QueryRouteRequest(topic=v2.Resource(name="t"))
request = service_pb2.QueryRouteRequest.FromString(ours.SerializeToString())
print(request.topic.name, type(request) is v2.QueryRouteRequest)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (run.stdout, run.returncode) == ("t False\n", 0), run.stderr


def test_names_are_protocs() -> None:
    """A module has what protoc's Python would have: classes, enum wrappers with Name and Value, and values as ints."""
    assert v2.Code.Value("TOPIC_NOT_FOUND") == v2.TOPIC_NOT_FOUND == 40402
    assert v2.ClientType.Name(v2.PUSH_CONSUMER) == "PUSH_CONSUMER"
    assert v2.OffsetOption.Policy.Value("MAX") == v2.OffsetOption.MAX == 2
    assert health.HealthCheckResponse.SERVING == 1
    assert reflection.ServerReflectionRequest(list_services="x").WhichOneof("message_request") == "list_services"


def test_times_are_set_by_field() -> None:
    """Timestamp and Duration are the pool's own, so that what is read here may be assigned there."""
    message = v2.Message()
    message.system_properties.born_timestamp.seconds = 5
    message.system_properties.invisible_duration.CopyFrom(v2.Duration(seconds=3, nanos=1))
    assert v2.Message.FromString(message.SerializeToString()).system_properties.invisible_duration.nanos == 1


@pytest.mark.parametrize("count", [0, 1, 127, 128, 20_000])
def test_file_set_is_split_at_every_length(count: int) -> None:
    """Lengths of one, two and three bytes."""
    varint = bytes([count & 0x7F | 0x80, count >> 7 & 0x7F | 0x80, count >> 14])
    assert list(split(b"\n" + varint + b"x" * count + b"\n\x01y")) == [b"x" * count, b"y"]


def test_broken_file_set_is_refused() -> None:
    """Not half a pool."""
    with pytest.raises(ValueError, match="not a FileDescriptorSet: byte 0x78 at 0"):
        list(split(b"xyz"))
