import pytest

from connprobe.kernel.btf import VMLINUX, Btf, Field, Missing


@pytest.fixture(scope="module")
def btf() -> Btf:
    try:
        return Btf.of_kernel()
    except Missing as error:
        pytest.skip(f"{error}: boot a kernel built with CONFIG_DEBUG_INFO_BTF=y")


def test_fields_of_which_the_place_is_known(btf: Btf) -> None:
    """struct iphdr is that of RFC 791; a socket's address and port are where inet_hashtables.h packs them."""
    assert btf.offset(Field("iphdr", "tot_len", 2)) == 2
    assert btf.offset(Field("iphdr", "daddr", 4)) == 16
    assert btf.offset(Field("ipv6hdr", "daddr", 16)) == 24
    assert btf.offset(Field("sock", "__sk_common.skc_rcv_saddr", 4)) == 4
    assert btf.offset(Field("sock", "__sk_common.skc_num", 2)) == 14
    assert btf.offset(Field("sock", "__sk_common", None)) == 0


def test_a_field_within_a_struct_within_a_struct(btf: Btf) -> None:
    outer = btf.offset(Field("inet_connection_sock", "icsk_accept_queue", None))
    inner = btf.offset(Field("request_sock_queue", "rskq_accept_tail", 8))
    path = Field("inet_connection_sock", "icsk_accept_queue.rskq_accept_tail", 8)
    assert btf.offset(path) == outer + inner
    assert path.macro == "INET_CONNECTION_SOCK_RSKQ_ACCEPT_TAIL"


@pytest.mark.parametrize(
    ("field", "message"),
    [
        (Field("sock", "sk_drop", 4), "no field sk_drop in struct sock"),
        (Field("sock", "__sk_common.skc_nums", 2), "no field __sk_common.skc_nums in struct sock"),
        (Field("socks", "sk_drops", 4), "no struct socks"),
        (Field("sock", "sk_drops", 8), "sk_drops has 4 bytes in this kernel, not 8"),
        (Field("iphdr", "ihl", 1), "ihl is a bit field"),
    ],
)
def test_what_a_kernel_lacks_is_named(btf: Btf, field: Field, message: str) -> None:
    with pytest.raises(Missing, match=message):
        btf.offset(field)


def test_the_arguments_of_a_tracepoint(btf: Btf) -> None:
    assert btf.tracepoint("inet_sock_set_state") == ("sock", "int", "int")
    assert btf.tracepoint("sys_exit")[0] == "pt_regs"
    with pytest.raises(Missing, match="no tracepoint inet_sock_set_mood"):
        btf.tracepoint("inet_sock_set_mood")


def test_the_names_of_an_enum(btf: Btf) -> None:
    names = btf.enum("tcp_ca_state")
    assert (names[0], names[4]) == ("TCP_CA_Open", "TCP_CA_Loss")
    with pytest.raises(Missing, match="no enum tcp_mood"):
        btf.enum("tcp_mood")


def test_what_is_no_type_information(btf: Btf) -> None:
    with pytest.raises(ValueError, match="no BTF"):
        Btf(bytes(100))
    with pytest.raises(ValueError, match="no BTF"):
        Btf(VMLINUX.read_bytes()[:10])


def test_the_number_of_a_function(btf: Btf) -> None:
    assert btf.function("bpf_iter_tcp") > 0
    with pytest.raises(Missing, match="no function bpf_iter_pct"):
        btf.function("bpf_iter_pct")
