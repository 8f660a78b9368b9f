"""The messages of rmq.admin.v1, our own service (proto/rmq/admin.proto)."""

from rmq_proto.pool import POOL, publish

__all__ = ["POOL"]

publish(globals(), "rmq/admin.proto")
