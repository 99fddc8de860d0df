"""The names of Linux capabilities: /proc gives a mask, people and setcap(8) use names."""

import re

# linux/capability.h: the name of each bit, from 0
_NAMES = re.findall(
    r"\w+",
    """
    CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE
    NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT
    SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE
    AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ
    PERFMON BPF CHECKPOINT_RESTORE
    """,
)


def effective_capabilities(status: str) -> tuple[str, ...]:
    """Decode the CapEff line of /proc/PID/status, in bit order. A bit newer than this table is CAP_<bit>.

    ValueError: there is no such line.
    """
    found = re.search(r"^CapEff:\s*([0-9a-fA-F]+)$", status, re.MULTILINE)
    if found is None:
        raise ValueError("no CapEff line")
    mask = int(found[1], 16)
    return tuple(
        f"CAP_{_NAMES[bit] if bit < len(_NAMES) else bit}"
        for bit in range(mask.bit_length())
        if mask >> bit & 1
    )
