"""grpc.health.v1 for the whole server (service "") and each service that we serve: SERVING until shutdown begins."""

from collections.abc import Iterable

from google.protobuf.message import DecodeError

from rmq_proto import health
from rmq_proxy.rpc import Call, GrpcCode, Kind, Outlet, Row, RpcError

NAME = "grpc.health.v1.Health"
Response = health.HealthCheckResponse


class Health:
    """What the probes are told. All services share one state: they are up and down together."""

    def __init__(self, services: Iterable[str]) -> None:
        self._services = frozenset(("", NAME, *services))
        self._serving = True
        self._watches: set[_Watch] = set()

    def rows(self) -> list[Row]:
        """For the table of served calls."""
        return [
            Row(f"/{NAME}/Check", Kind.UNARY, self._check, limit="open"),
            Row(f"/{NAME}/Watch", Kind.STREAM, self._watch, limit="open"),
        ]

    def stop_serving(self) -> None:
        """Shutdown begins: every Check and Watch says NOT_SERVING from now on."""
        self._serving = False
        for watch in self._watches:
            watch.tell()

    def status(self, service: str) -> bytes:
        """An encoded HealthCheckResponse; SERVICE_UNKNOWN for a name that we do not serve."""
        if service not in self._services:
            return Response(status=Response.SERVICE_UNKNOWN).SerializeToString()
        return Response(status=Response.SERVING if self._serving else Response.NOT_SERVING).SerializeToString()

    def _check(self, _: Call, request: bytes) -> bytes:
        service = _service(request)
        if service not in self._services:
            raise RpcError(GrpcCode.NOT_FOUND, f"no service {service[:200]!r} here")
        return self.status(service)

    def _watch(self, _: Call, outlet: Outlet) -> "_Watch":
        return _Watch(self, self._watches, outlet)


class _Watch:
    """One Watch call: told the state at once and at each change, until the client leaves."""

    def __init__(self, owner: Health, watches: "set[_Watch]", outlet: Outlet) -> None:
        self._owner = owner
        self._watches = watches
        self._outlet = outlet
        self._service: str | None = None

    def message(self, data: bytes) -> None:
        if self._service is not None:
            raise RpcError(GrpcCode.INVALID_ARGUMENT, "Watch takes one request")
        self._service = _service(data)
        self._watches.add(self)
        self.tell()

    def half_closed(self) -> None:
        """The client always sends one request and then no more: it goes on listening."""

    def closed(self) -> None:
        self._watches.discard(self)

    def tell(self) -> None:
        """Sends the state as it is now."""
        if self._service is not None:
            self._outlet.write(self._owner.status(self._service))


def _service(request: bytes) -> str:
    try:
        return health.HealthCheckRequest.FromString(request).service
    except DecodeError:
        raise RpcError(GrpcCode.INVALID_ARGUMENT, "not a HealthCheckRequest") from None
