"""Our protocols' message classes, in a descriptor pool of our own: import `v2`, `health` or `reflection` from here.

The official Python client registers package apache.rocketmq.v2 in protobuf's default pool, and a second registration
there kills the process; a pytest user has both in one process. So nothing here touches the default pool. The price:
a message of ours cannot be copied into one of theirs, well-known types included; set `seconds` and `nanos` by field.
"""
