"""rmq: a RocketMQ 5 server in Python. Read docs/ARCHITECTURE.md first."""

__version__ = "0.1.0"
