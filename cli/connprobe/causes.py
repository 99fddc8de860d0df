"""Why a connection was never established, or was lost: one closed list that workers count by.

Kept free of imports: every forked worker carries it.
"""

REFUSED = "refused"
RESET = "reset"
EOF = "eof"
TIMEOUT = "timeout"
NO_SOURCE_PORT = "no_source_port"
FD_LIMIT = "fd_limit"
UNREACHABLE = "unreachable"
REJECTED = "rejected"
PROTOCOL = "protocol"
TLS = "tls"
WORKER_LOST = "worker_lost"

CAUSES = (
    REFUSED,
    RESET,
    EOF,
    TIMEOUT,
    NO_SOURCE_PORT,
    FD_LIMIT,
    UNREACHABLE,
    REJECTED,
    PROTOCOL,
    TLS,
    WORKER_LOST,
)

INDEX = {cause: index for index, cause in enumerate(CAUSES)}
