"""What is compiled together is what each text would be by itself."""

from collections.abc import Sequence

import pytest

from connprobe.data import data_dir
from connprobe.kernel import compiler
from connprobe.kernel.btf import Btf, Missing
from connprobe.kernel.loader import candidates
from connprobe.kernel.probe import Probe
from connprobe.kernel.spawn import Compiled, Text, compile_texts, default_pythons
from connprobe.session.kernel.probes import all_probes
from kernel.sockets import SLOW_S


def compiled(texts: Sequence[Text], workers: int | None = None) -> Compiled:
    answer = compile_texts(texts, default_pythons(), SLOW_S, workers)
    if answer.bcc is None:
        pytest.skip(f"{answer.reason}: {answer.fix}")
    return answer


def text_of(probe: Probe, rung: int) -> Text:
    """Of one of those rungs that this kernel has fields for."""
    try:
        served = candidates(probe, Btf.of_kernel(), data_dir("probes"))[0]
    except Missing as error:
        pytest.skip(str(error))
    chosen = served[min(rung, len(served) - 1)]
    return Text(probe.name, chosen.text, tuple({hook.program: None for hook in chosen.rung.hooks}))


@pytest.mark.parametrize("rung", [0, 1])
def test_all_probes_together_are_the_same_as_each_alone(rung: int) -> None:
    texts = [text_of(probe, rung) for probe in all_probes(system_calls=True)]
    together = compiled(texts, workers=1)
    assert together.apart == []
    for text in texts:
        assert together.answers[text.name] == compiled([text]).answers[text.name]


def test_one_that_does_not_compile_is_told_and_the_others_are_compiled() -> None:
    plain = (
        "BPF_ARRAY(seen, u64, 1);\nRAW_TRACEPOINT(count) { int zero = 0; return seen.lookup(&zero) != 0; }\n"
    )
    macro = "#define RAW_TRACEPOINT(name) int name(struct bpf_raw_tracepoint_args *ctx)\n"
    texts = [
        Text("one", macro + plain, ("count",)),
        Text("broken", macro + plain + "RAW_TRACEPOINT(mood) { return nonsense; }\n", ("count", "mood")),
    ]
    answer = compiled(texts, workers=1)
    broken = answer.answers["broken"]
    assert isinstance(broken, str)
    assert "use of undeclared identifier 'nonsense'" in broken
    assert answer.answers["one"] == compiled(texts[:1]).answers["one"]


def test_nothing_of_a_text_is_left_for_the_next() -> None:
    text = """#define SIZE 3
enum { ONE, TWO = 2, /* a comment, with names */ THREE };
struct thing {
  u64 count;
};
typedef u32 word;
static u64 (*helper)(void) = (void *)158;
static inline struct thing *find(word count) { return 0; }
BPF_TABLE("lru_hash", struct thing, u64, things, SIZE);
BPF_HASH(others, u64, struct thing, SIZE);
RAW_TRACEPOINT(runs) { return ONE + TWO + THREE; }
int bpf_iter__tcp(void *ctx) { return helper() != 0; }
"""
    found = compiler.apart(text, "p0_")
    for name in ("ONE", "TWO", "THREE", "thing", "word", "helper", "find", "things", "others", "runs"):
        assert f"p0_{name}" in found
    assert "int p0_bpf_iter__tcp(void *ctx) { return p0_helper() != 0; }" in found
    assert 'BPF_TABLE("lru_hash", struct p0_thing, u64, p0_things, SIZE);' in found
    assert "  u64 count;" in found
    assert found.endswith("#undef SIZE\n")


def test_workers_have_shares_of_about_the_same_length() -> None:
    texts = [{"text": "x" * length} for length in (13, 11, 7, 5, 3, 2)]
    lengths = [[len(each["text"]) for each in share] for share in compiler.shares(texts, 2)]
    assert lengths == [[13, 5, 3], [11, 7, 2]]
    assert [len(share) for share in compiler.shares(texts, 64)] == [1] * 6
