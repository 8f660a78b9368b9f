"""Server reflection (grpc.reflection.v1 and v1alpha) out of our private descriptor pool, for grpcurl and its kind.

Both versions have the same bytes, so one handler serves both. We define no extensions: asking for one finds nothing.
"""

from collections.abc import Callable, Iterable

from google.protobuf.descriptor import FileDescriptor
from google.protobuf.message import DecodeError

from rmq_proto import reflection
from rmq_proto.reflection import POOL
from rmq_proxy.rpc import Call, GrpcCode, Kind, Outlet, Row, RpcError

NAMES = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")
Request = reflection.ServerReflectionRequest
Response = reflection.ServerReflectionResponse


def rows(services: Iterable[str]) -> list[Row]:
    """For the table of served calls. `services`: the full names of all the others in it."""
    served = sorted({*services, *NAMES})

    def start(_: Call, outlet: Outlet) -> "_Session":
        return _Session(served, outlet)

    return [Row(f"/{name}/ServerReflectionInfo", Kind.STREAM, start, limit="open") for name in NAMES]


class _Session:
    """One stream: each request gets one response, in order."""

    def __init__(self, served: list[str], outlet: Outlet) -> None:
        self._served = served
        self._outlet = outlet

    def message(self, data: bytes) -> None:
        try:
            request = Request.FromString(data)
        except DecodeError:
            raise RpcError(GrpcCode.INVALID_ARGUMENT, "not a ServerReflectionRequest") from None
        self._outlet.write(answer(request, self._served).SerializeToString())

    def half_closed(self) -> None:
        self._outlet.finish()

    def closed(self) -> None:
        """Nothing is kept."""


def answer(request: Request, served: Iterable[str]) -> Response:
    """The response to one request; what is not there is an error_response NOT_FOUND, not the end of the stream."""
    response = Response(valid_host=request.host, original_request=request)
    kind = request.WhichOneof("message_request")
    try:
        match kind:
            case "list_services":
                for name in served:
                    response.list_services_response.service.add(name=name)
            case "file_by_filename":
                _put_files(response, POOL.FindFileByName, request.file_by_filename)
            case "file_containing_symbol":
                _put_files(response, _file_of_symbol, request.file_containing_symbol)
            case "all_extension_numbers_of_type":
                name = request.all_extension_numbers_of_type
                response.all_extension_numbers_response.base_type_name = POOL.FindMessageTypeByName(name).full_name
            case "file_containing_extension":
                raise KeyError("no extension is defined here")
            case _:
                response.error_response.error_code = GrpcCode.INVALID_ARGUMENT
                response.error_response.error_message = "the request asks for nothing"
    except KeyError as error:
        response.error_response.error_code = GrpcCode.NOT_FOUND
        response.error_response.error_message = str(error.args[0])
    return response


def _put_files(response: Response, find: Callable[[str], FileDescriptor], name: str) -> None:
    """The file and all that it needs, itself first."""
    files: dict[str, bytes] = {}
    waiting = [find(name)]
    while waiting:
        file = waiting.pop()
        if file.name not in files:
            files[file.name] = file.serialized_pb
            waiting.extend(file.dependencies)
    response.file_descriptor_response.file_descriptor_proto.extend(files.values())


def _file_of_symbol(symbol: str) -> FileDescriptor:
    """Also finds a service's method, which the pool's own search does not know. Raises KeyError."""
    try:
        return POOL.FindFileContainingSymbol(symbol)
    except KeyError:
        service, _, method = symbol.rpartition(".")
        descriptor = POOL.FindServiceByName(service)
        if method not in descriptor.methods_by_name:
            raise
        return descriptor.file
