"""The TLS context of the embedded server. Imported only where TLS was asked for."""

import ssl


def server_context(certificate: str, key: str | None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    context.set_alpn_protocols(["http/1.1"])
    context.num_tickets = 0  # handshakes here are meant to be real ones
    return context
