"""The messages of grpc.health.v1."""

from rmq_proto.pool import POOL, publish

__all__ = ["POOL"]

publish(globals(), "grpc/health/v1/health.proto")
