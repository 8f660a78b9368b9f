"""The parts of the native transport: what a connection's first bytes say, its calls, TLS, and the pages of its port.

http2/ knows the protocol and nothing else; here it meets the table of calls, the loop and the network.
"""
