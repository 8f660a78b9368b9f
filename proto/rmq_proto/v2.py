"""The messages, enums and enum values of apache.rocketmq.v2 by their short names; with our Timestamp and Duration."""

from rmq_proto.pool import POOL, publish

__all__ = ["POOL"]

publish(
    globals(),
    "google/protobuf/duration.proto",
    "google/protobuf/timestamp.proto",
    "apache/rocketmq/v2/definition.proto",
    "apache/rocketmq/v2/service.proto",
)
