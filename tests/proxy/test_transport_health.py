"""Health and reflection, on every transport."""

from typing import cast

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto

from rmq_proto import health as health_pb
from rmq_proto import reflection as reflection_pb
from rmq_proxy import reflection
from rmq_proxy.health import Health
from rmq_proxy.rpc import Call, GrpcCode, Open, RpcError
from tests.proxy.transports import (
    Maker,
    Run,
    serving,
    status_of,
)

SERVICE = "apache.rocketmq.v2.MessagingService"
IMPORTED = {
    "apache/rocketmq/v2/definition.proto",
    "google/protobuf/duration.proto",
    "google/protobuf/timestamp.proto",
}
Request = reflection_pb.ServerReflectionRequest
Health1 = health_pb.HealthCheckResponse


def asking(service: str) -> bytes:
    """An encoded HealthCheckRequest."""
    return health_pb.HealthCheckRequest(service=service).SerializeToString()


def test_health_check(run: "Run[None]", make: Maker) -> None:
    """Serving for "" and each service, NOT_FOUND for others, NOT_SERVING from the moment that shutdown begins."""

    async def scenario() -> None:
        health = Health([SERVICE])
        async with serving(make, *health.rows()) as server:

            async def check(service: str) -> int:
                return Health1.FromString(await server.unary("/grpc.health.v1.Health/Check", asking(service))).status

            assert [await check(name) for name in ("", SERVICE, "grpc.health.v1.Health")] == [Health1.SERVING] * 3
            assert (await status_of(check("nobody")))[0] == GrpcCode.NOT_FOUND
            health.stop_serving()
            assert await check("") == Health1.NOT_SERVING

    run(scenario())


def test_health_watch(run: "Run[None]", make: Maker) -> None:
    """The state at once and each change; an unknown service is SERVICE_UNKNOWN and not an error."""

    async def scenario() -> None:
        health = Health([SERVICE])
        async with serving(make, *health.rows()) as server:
            path = "/grpc.health.v1.Health/Watch"
            calls = {name: await server.listing(path, asking(name)) for name in (SERVICE, "nobody")}

            async def told(name: str) -> int:
                return Health1.FromString(cast(bytes, await calls[name].read())).status

            assert await told(SERVICE) == Health1.SERVING
            assert await told("nobody") == Health1.SERVICE_UNKNOWN
            health.stop_serving()
            assert await told(SERVICE) == Health1.NOT_SERVING

    run(scenario())


class Written(list[bytes]):
    """An Outlet that keeps what is written."""

    def write(self, message: bytes) -> None:
        self.append(message)

    def finish(self, code: GrpcCode = GrpcCode.OK, text: str = "") -> None:
        raise AssertionError("a Watch is ended by its client only")


def test_health_watch_is_forgotten() -> None:
    """A Watch that is over is told nothing more; a second request on one is refused."""
    health = Health([])
    _, row = health.rows()
    gone, there = Written(), Written()
    watches = [cast(Open, row.handler)(Call("peer", {}), outlet) for outlet in (gone, there)]
    for watch in watches:
        watch.message(asking(""))
    with pytest.raises(RpcError, match="one request"):
        watches[1].message(asking(""))
    watches[0].closed()
    health.stop_serving()
    assert (len(gone), len(there)) == (1, 2)


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
def test_reflection(run: "Run[None]", make: Maker, version: str) -> None:
    """Lists what is served; gives files with all that they import, by name and by symbol, a method's included."""

    async def scenario() -> None:
        async with serving(make, *reflection.rows([SERVICE])) as server:
            call = await server.stream(f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo")

            async def ask(request: Request) -> reflection_pb.ServerReflectionResponse:
                await call.write(request.SerializeToString())
                response = reflection_pb.ServerReflectionResponse.FromString(cast(bytes, await call.read()))
                assert response.original_request == request
                return response

            listed = (await ask(Request(list_services="*"))).list_services_response
            assert [service.name for service in listed.service] == [SERVICE, *reflection.NAMES]
            for question in (
                Request(file_containing_symbol=f"{SERVICE}.SendMessage"),
                Request(file_containing_symbol=SERVICE),
                Request(file_by_filename="apache/rocketmq/v2/service.proto"),
            ):
                files = (await ask(question)).file_descriptor_response.file_descriptor_proto
                names = [FileDescriptorProto.FromString(file).name for file in files]
                assert names[0] == "apache/rocketmq/v2/service.proto"
                assert set(names[1:]) == IMPORTED
            await call.half_close()
            assert await call.end() == (GrpcCode.OK, "")

    run(scenario())


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (Request(file_by_filename="nope.proto"), GrpcCode.NOT_FOUND),
        (Request(file_containing_symbol="nope"), GrpcCode.NOT_FOUND),
        (Request(file_containing_symbol=f"{SERVICE}.Nope"), GrpcCode.NOT_FOUND),
        (Request(file_containing_extension={"containing_type": "x", "extension_number": 1}), GrpcCode.NOT_FOUND),
        (Request(all_extension_numbers_of_type="nope"), GrpcCode.NOT_FOUND),
        (Request(), GrpcCode.INVALID_ARGUMENT),
    ],
)
def test_reflection_of_what_is_not_there(request_: Request, code: GrpcCode) -> None:
    """An error_response in the stream, with gRPC's code."""
    assert reflection.answer(request_, []).error_response.error_code == code


def test_reflection_knows_no_extensions() -> None:
    """A type that exists has none of them."""
    request = Request(all_extension_numbers_of_type="apache.rocketmq.v2.Message")
    response = reflection.answer(request, []).all_extension_numbers_response
    assert (response.base_type_name, list(response.extension_number)) == ("apache.rocketmq.v2.Message", [])


@pytest.mark.parametrize("path", ["/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"])
def test_health_garbage(run: "Run[None]", make: Maker, path: str) -> None:
    """Bytes that are no request are INVALID_ARGUMENT."""

    async def scenario() -> None:
        async with serving(make, *Health([]).rows()) as server:
            assert (await status_of(server.list(path, b"\xff")))[0] == GrpcCode.INVALID_ARGUMENT

    run(scenario())


def test_reflection_garbage(run: "Run[None]", make: Maker) -> None:
    """Here, too."""

    async def scenario() -> None:
        async with serving(make, *reflection.rows([])) as server:
            call = await server.stream("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo")
            await call.write(b"\xff")
            assert (await call.end())[0] == GrpcCode.INVALID_ARGUMENT

    run(scenario())
