"""nginx's syntax, and which file a command line names."""

from pathlib import Path

import pytest

from connprobe.observe.declared.nginxconf import Directive, built_with, configuration, read


def _words(found: list[Directive]) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
    return [(each.blocks, each.words) for each in found]


def test_blocks_quotes_and_comments(tmp_path: Path) -> None:
    file = tmp_path / "nginx.conf"
    file.write_text(
        "user www; # worker_connections 1;\n"
        "events { worker_connections 3001; }\n"
        'http {\n  log_format a \'{ "x;" }\' "it\'s ${b}; \\"";\n  server { listen 80; return 200 a#b; }\n}\n'
    )
    found = read(file)
    assert _words(found) == [
        ((), ("user", "www")),
        ((), ("events",)),
        (("events",), ("worker_connections", "3001")),
        ((), ("http",)),
        (("http",), ("log_format", "a", '{ "x;" }', "it's ${b}; \\\"")),
        (("http",), ("server",)),
        (("http", "server"), ("listen", "80")),
        (("http", "server"), ("return", "200", "a#b")),
    ]
    assert [each.line for each in found] == [1, 2, 2, 3, 4, 5, 5, 5]


def test_includes_are_followed_within_their_block_and_by_pattern(tmp_path: Path) -> None:
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "nginx.conf").write_text("events { include ev.conf; } http { include conf.d/*.conf; }")
    (tmp_path / "ev.conf").write_text("\nworker_connections 503;")
    (tmp_path / "conf.d/b.conf").write_text("server { listen 2; }")
    (tmp_path / "conf.d/a.conf").write_text("server { listen 1; }")
    found = read(tmp_path / "nginx.conf")
    (declared,) = [each for each in found if each.name == "worker_connections"]
    assert (declared.blocks, declared.file, declared.line) == (("events",), tmp_path / "ev.conf", 2)
    assert [each.words[1] for each in found if each.name == "listen"] == ["1", "2"]
    assert {each.blocks for each in found if each.name == "listen"} == {("http", "server")}


def test_lua_is_passed_over(tmp_path: Path) -> None:
    file = tmp_path / "nginx.conf"
    file.write_text("http { init_by_lua_block {\n local t = {a = \"it's\"} -- don't\n}\n}\nevents { a b; }")
    last = read(file)[-1]
    assert (last.blocks, last.words, last.line) == (("events",), ("a", "b"), 5)


@pytest.mark.parametrize(
    "text", ["}", "events { include nginx.conf; }", "a {" * 200, '"unended', "include gone.conf;"]
)
def test_hostile_files_are_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "nginx.conf"
    file.write_text(text)
    with pytest.raises((ValueError, OSError)):
        read(file)


@pytest.mark.parametrize(
    ("arguments", "file", "extra"),
    [
        ("", "/etc/nginx/nginx.conf", ""),
        ("-c /a/b.conf", "/a/b.conf", ""),
        ("-c/a/b.conf -p /srv", "/a/b.conf", ""),
        ("-p /srv -c b.conf", "/srv/b.conf", ""),
        ("-g daemon off; master_process on; -c /a/b.conf", "/a/b.conf", "daemon off; master_process on;"),
    ],
)
def test_command_lines(arguments: str, file: str, extra: str) -> None:
    built = {"prefix": "/usr/share/nginx", "conf-path": "/etc/nginx/nginx.conf"}
    assert configuration(arguments, built) == (Path(file), extra)


def test_without_configure_arguments() -> None:
    assert configuration("-q", {}) == (Path("/usr/local/nginx/conf/nginx.conf"), "")


def test_what_a_binary_was_built_with(tmp_path: Path) -> None:
    file = tmp_path / "binary"
    file.write_bytes(
        b"\x7fELF\0\0configure arguments: --prefix=/p --with-x='-a b' --conf-path=/c/n.conf\0--prefix=/no"
    )
    assert built_with(file) == {"prefix": "/p", "conf-path": "/c/n.conf"}
    file.write_bytes(b"\x7fELF")
    assert built_with(file) == {}
