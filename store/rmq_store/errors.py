"""The store's own errors: our disk or our files are at fault, never the caller."""


class StoreError(Exception):
    """The store cannot go on, or cannot be opened; the text is one line that says what to do."""


class StoreFull(StoreError):  # noqa: N818  # a state of the disk more than an error: sends are refused until it passes
    """No room for new messages; what is in the reserve belongs to the journal (acks, leases) and to recovery."""
