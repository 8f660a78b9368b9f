"""HTTP/2 and gRPC as state machines: bytes in, events out; calls in, bytes out. No sockets, no loop, no clock.

Read in this order: frames (what goes over the wire), huffman and hpack (header blocks), limits (every bound), stream
and connection (the protocol), grpc (messages, timeouts, statuses inside it).
"""
