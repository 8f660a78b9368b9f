"""`rmq env`: what a shell needs so that programs find this server: `eval "$(rmq env)"`.

RocketMQ's gRPC clients read no endpoint from the environment, so ROCKETMQ_ENDPOINT is for the caller's own code, as
examples and test suites do it. What else is printed depends on what is found: TLS hints only where the server answers
in plaintext (Java, Go, C# and C++ clients begin with TLS), proxy exceptions only where a proxy is set.
"""

import os
import shlex
import socket
from collections.abc import Iterator, Mapping

import click

from rmq import output
from rmq.commands.exits import UNUSABLE, Failed
from rmq.commands.server import ENDPOINT_VARIABLE, endpoint_option, json_option

PROBE_S = 0.5
PROXY_VARIABLES = ("grpc_proxy", "http_proxy", "https_proxy", "HTTPS_PROXY", "HTTP_PROXY", "all_proxy", "ALL_PROXY")
TLS_OFF = {
    "Java": "ClientConfiguration.newBuilder().enableSsl(false)",
    "Go": "env rocketmq.client.enableSsl=false go test ./...  (no shell can export a name with dots)",
    "C#": "new ClientConfig.Builder().EnableSsl(false)",
    "C++": "Configuration::newBuilder().withSsl(false)",
}
"""How each client that begins with TLS is told not to (facts: grpc.md 2.5). Python, Node and Rust begin without."""


@click.command()
@endpoint_option
@json_option
def env(endpoint: str, as_json: bool) -> None:
    """Prints exports for a shell, and what official clients need beside them as comments."""
    host, port = _split(endpoint)
    variables = {"ROCKETMQ_ENDPOINT": _joined(host, port), ENDPOINT_VARIABLE: _joined(host, port)}
    variables |= _no_proxy(host, os.environ)
    speaks = _speaks(host, port)
    if as_json:
        output.document({"variables": variables, "answers": speaks != "", "tls": speaks == "tls", "tls_off": TLS_OFF})
        return
    output.line('# what programs read: eval "$(rmq env)"')
    for name, value in variables.items():
        output.line(f"export {name}={shlex.quote(value)}")
    for comment in _comments(endpoint, speaks):
        output.line(f"# {comment}")


def _comments(endpoint: str, speaks: str) -> Iterator[str]:
    if not speaks:
        yield f"nothing answers at {endpoint} just now: start `rmq serve`, then `rmq wait`"
        return
    if speaks == "plaintext":
        yield "the server speaks plaintext; clients that begin with TLS have to be told:"
        for language, how in TLS_OFF.items():
            yield f"  {language}: {how}"


def _split(endpoint: str) -> tuple[str, int]:
    from rmq_proxy.admin_client import AdminError, split_endpoint

    try:
        return split_endpoint(endpoint)
    except AdminError as error:
        raise Failed(error.text, UNUSABLE) from None


def _joined(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _no_proxy(host: str, environ: Mapping[str, str]) -> dict[str, str]:
    """Clients of gRPC honour a proxy even for localhost; the exception is needed only where there is a proxy."""
    if not any(environ.get(name) for name in PROXY_VARIABLES):
        return {}
    known = [part.strip() for part in environ.get("no_proxy", environ.get("NO_PROXY", "")).split(",") if part.strip()]
    if host in known or "*" in known:
        return {}
    value = ",".join([*known, host])
    return {"no_proxy": value, "NO_PROXY": value}


def _speaks(host: str, port: int) -> str:
    """tls, plaintext, or empty where nothing answers. A server that takes both counts as tls: nobody needs a hint."""
    import ssl

    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # the question is what it speaks, nothing is sent
    context.set_alpn_protocols(["h2"])
    try:
        with socket.create_connection((host, port), PROBE_S) as plain:
            try:
                with context.wrap_socket(plain, server_hostname=host):
                    return "tls"
            except OSError:  # SSLError is one
                return "plaintext"
    except OSError:
        return ""
