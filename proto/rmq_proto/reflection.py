"""The messages of grpc.reflection.v1; those of v1alpha have the same bytes."""

from rmq_proto.pool import POOL, publish

__all__ = ["POOL"]

publish(globals(), "grpc/reflection/v1/reflection.proto")
