"""The TLS client context of a worker. Imported only with --tls: ssl costs every worker memory."""

import ssl

from connprobe.engine.task import TlsTask


def client_context(task: TlsTask, protocol: str) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=task.ca_file)
    if not task.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if protocol in ("http", "ws"):
        context.set_alpn_protocols(["http/1.1"])
    return context


def reason(error: ssl.SSLError) -> str:
    """What went wrong, in OpenSSL's words, without the source line that Python appends."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"CERTIFICATE_VERIFY_FAILED: {error.verify_message}"
    return error.reason or str(error)
