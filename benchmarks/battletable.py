"""The article's figures beside ours, apart from the runs, so that it can be tested alone."""

from connprobe.model.bout import CompareRecord, Figure, Standing

# Milliseconds: mean handshake, mean latency, total. 10,000: the tables of the article (README.md of the
# repository observing/balancerbattle). 2,000 and 5,000: the output of its load generator, in results/ there.
ARTICLE: dict[tuple[str, int, str], tuple[int, int, int]] = {
    ("plain", 2000, "control"): (186, 17, 5338),
    ("plain", 2000, "http-proxy"): (293, 44, 6352),
    ("plain", 2000, "nginx"): (266, 22, 6358),
    ("plain", 2000, "haproxy"): (227, 17, 5551),
    ("plain", 5000, "control"): (195, 21, 14032),
    ("plain", 5000, "http-proxy"): (294, 47, 15640),
    ("plain", 5000, "nginx"): (252, 17, 14491),
    ("plain", 5000, "haproxy"): (221, 18, 13397),
    ("plain", 10000, "control"): (189, 16, 25310),
    ("plain", 10000, "http-proxy"): (293, 44, 30168),
    ("plain", 10000, "nginx"): (252, 16, 28433),
    ("plain", 10000, "haproxy"): (209, 18, 26974),
    ("TLS", 2000, "control"): (703, 70, 14743),
    ("TLS", 2000, "http-proxy"): (667, 62, 13968),
    ("TLS", 2000, "nginx"): (492, 34, 11205),
    ("TLS", 2000, "haproxy"): (501, 30, 11335),
    ("TLS", 2000, "haproxy + hitch"): (549, 52, 12406),
    ("TLS", 5000, "control"): (737, 73, 37697),
    ("TLS", 5000, "http-proxy"): (674, 61, 34451),
    ("TLS", 5000, "nginx"): (491, 27, 25705),
    ("TLS", 5000, "haproxy"): (502, 26, 26917),
    ("TLS", 5000, "haproxy + hitch"): (521, 45, 27516),
    ("TLS", 10000, "control"): (703, 65, 71500),
    ("TLS", 10000, "http-proxy"): (679, 62, 68670),
    ("TLS", 10000, "nginx"): (470, 30, 50180),
    ("TLS", 10000, "haproxy"): (464, 25, 50058),
    ("TLS", 10000, "haproxy + hitch"): (492, 42, 52403),
}
FIGURES = ("handshake_mean_ms", "message_mean_ms", "total_s")
HEADER = (
    "| | connections | handshake: article | here | latency: article | here | total: article | here "
    "| total over control: article | here |"
)
DASH = "\u2013"


def beside(record: CompareRecord) -> str:
    """A Markdown table: a line for each standing, and what the article has for it, where it has."""
    rule = "|---|" + "---:|" * 9
    return "\n".join([HEADER, rule, *map(_line, record.standings)])


def _line(standing: Standing) -> str:
    key = (standing.workload, standing.size, standing.contestant)
    article = ARTICLE.get(key)
    control = ARTICLE.get((standing.workload, standing.size, "control"))
    cells = [f"{standing.workload}: {standing.contestant}", f"{standing.size:,}"]
    for index, name in enumerate(FIGURES):
        scale = 1000 if name == "total_s" else 1
        cells.append(f"{article[index]:,} ms" if article else DASH)
        cells.append(_ms(standing.figures[name], scale))
    cells.append(f"{article[2] / control[2]:.2f}" if article and control else DASH)
    ratios = standing.figures["total_s"].ratios
    cells.append(f"{ratios.median:.2f}" if ratios else DASH)
    return f"| {' | '.join(cells)} |"


def _ms(figure: Figure, scale: int) -> str:
    if figure.values is None:
        return DASH
    value = figure.values.median * scale
    return f"{value:,.0f} ms" if value >= 99.5 else f"{value:.1f} ms"
