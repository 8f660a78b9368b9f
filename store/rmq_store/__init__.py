"""Bytes, positions and times: the commit log and everything derived from it. Knows no protocol and no policy."""
