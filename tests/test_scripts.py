"""The scripts parse, say what is missing, and touch nothing then: some are what a newcomer runs first."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from running import Namespace

CHECKOUT = Path(__file__).parent.parent
SCRIPTS = ("apt-install", "balancerbattle", "check", "demo", "kernel-vm", "kernels", "setup", "test")
# What the scripts themselves are written with; no python3, no apt-get, no gcc, no qemu.
BASICS = ("sh", "basename", "cat", "cksum", "dirname", "id", "mktemp", "readlink", "rm", "uname")


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A checkout without .venv beside a PATH directory `bin` with the basics alone."""
    (tmp_path / "bin").mkdir()
    for name in BASICS:
        found = shutil.which(name)
        assert found is not None
        (tmp_path / "bin" / name).symlink_to(found)
    shutil.copytree(CHECKOUT / "scripts", tmp_path / "checkout" / "scripts")
    shutil.copy(CHECKOUT / "pyproject.toml", tmp_path / "checkout")
    return tmp_path


def run(bare: Path, script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A script run from another directory, in which it may make nothing but temporary files."""
    ran = subprocess.run(
        [bare / script, *arguments],
        cwd=bare,
        env={"PATH": str(bare / "bin"), "HOME": str(bare), "TMPDIR": str(bare)},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert not (bare / "checkout" / ".venv").exists()
    assert {each.name for each in bare.iterdir()} <= {"bin", "checkout", "link"}
    return ran


def setup(bare: Path, *arguments: str, script: str = "checkout/scripts/setup") -> tuple[int, str]:
    """Exit code and standard error of scripts/setup."""
    ran = run(bare, script, *arguments)
    assert ran.stdout == ""
    return ran.returncode, ran.stderr


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_is_executable_and_plain_sh(name: str) -> None:
    script = CHECKOUT / "scripts" / name
    assert os.access(script, os.X_OK)
    assert script.read_text().startswith("#!/bin/sh\n")
    subprocess.run(["sh", "-n", script], check=True)


@pytest.mark.skipif(not shutil.which("shellcheck"), reason="needs shellcheck: apt-get install shellcheck")
def test_shellcheck_has_no_objection() -> None:
    scripts = [CHECKOUT / "scripts" / name for name in SCRIPTS]
    subprocess.run(["shellcheck", *scripts, CHECKOUT / ".ci" / "run"], check=True)


def test_without_apt_everything_missing_is_named_at_once(bare: Path) -> None:
    code, said = setup(bare, "dev")
    assert code == 1
    missing = "python3 python3-venv gcc libc6-dev iproute2 util-linux procps"
    assert f"missing: {missing} (Debian's names)" in said


def test_it_is_found_through_a_symlink(bare: Path) -> None:
    (bare / "link").symlink_to("checkout/scripts/setup")
    code, said = setup(bare, script="link")
    assert (code, "missing: python3 python3-venv" in said) == (1, True)


def test_a_python_too_old_is_named_with_its_version(bare: Path) -> None:
    old = bare / "bin" / "python3"
    old.write_text('#!/bin/sh\n[ "$1" = -V ] && echo Python 3.9.2 && exit 0\nexit 1\n')
    old.chmod(0o755)
    code, said = setup(bare)
    assert code == 1
    assert "needs Python 3.11 or later, and python3 is Python 3.9.2" in said


def test_what_a_link_leads_to_is_not_emptied(bare: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "precious").touch()
    link = bare / "checkout" / ".venv"
    link.symlink_to(elsewhere)
    ran = subprocess.run(
        [bare / "checkout" / "scripts" / "setup"], capture_output=True, text=True, timeout=60, check=False
    )
    assert ran.returncode == 1
    assert ran.stderr.startswith(f"setup: .venv is a link to {elsewhere}")
    assert f"rm '{link}'" in ran.stderr
    assert (elsewhere / "precious").exists()


def test_another_argument_is_a_usage_error(bare: Path) -> None:
    code, said = setup(bare, "production")
    assert (code, said) == (2, "setup: usage: scripts/setup [dev]\n")


def test_a_kernel_asked_for_that_cannot_be_had_is_a_failure_with_its_reason(bare: Path) -> None:
    ran = run(bare, "checkout/scripts/kernels", "6.1", "6.12")
    assert ran.returncode == 1
    first, second = ran.stdout.splitlines()
    assert re.fullmatch(r"6\.1 +FAILED: Debian's .*kernels are .+", first)
    assert second.startswith("6.12 ")


@pytest.mark.parametrize("argument", ["6", "6.1.0", "linux-6.1", "6.1x", "--strict", "."])
def test_what_is_no_kernel_series_is_a_usage_error(bare: Path, argument: str) -> None:
    ran = run(bare, "checkout/scripts/kernels", "6.1", argument)
    usage = "kernels: usage: scripts/kernels [host|6.1|6.12]... [-- PYTEST ARGUMENT...]\n"
    assert (ran.returncode, ran.stdout, ran.stderr) == (2, "", usage)


def test_a_virtual_machine_needs_a_kernel_and_a_command(bare: Path) -> None:
    ran = run(bare, "checkout/scripts/kernel-vm", str(bare))
    assert (ran.returncode, ran.stderr) == (2, "kernel-vm: usage: scripts/kernel-vm DIRECTORY COMMAND...\n")


def test_packages_are_not_installed_without_apt(bare: Path) -> None:
    ran = run(bare, "checkout/scripts/apt-install", "cpio", "kmod")
    assert ran.returncode == 1
    assert ran.stderr.startswith("missing: cpio kmod (Debian's names). Install them with")


def test_what_the_comparison_of_proxies_needs_is_named(bare: Path) -> None:
    ran = run(bare, "checkout/scripts/balancerbattle")
    assert ran.returncode == 1
    assert re.search(r"missing: .*\bnodejs npm openssl \(Debian's names\)", ran.stderr), ran.stderr
    assert not (bare / ".cache").exists()


def test_an_ordinary_user_is_told_how_to_install_without_starting_services(bare: Path) -> None:
    for name in ("apt-get", "id"):
        (bare / "bin" / name).unlink(missing_ok=True)
        (bare / "bin" / name).write_text("#!/bin/sh\necho 1000\n")
        (bare / "bin" / name).chmod(0o755)
    ran = run(bare, "checkout/scripts/apt-install", "nginx-light", "haproxy")
    script = (bare / "checkout/scripts/apt-install").resolve()
    assert ran.returncode == 1
    assert f"Run: sudo '{script}' nginx-light haproxy" in ran.stderr


# What Debian's package does to the system, and whether its service could start meanwhile.
APT_GET = """#!/bin/sh
[ "$2" = install ] || exit 0
unit=/lib/systemd/system/haproxy.service
printf '[Service]\\nExecStart=/bin/true\\n[Install]\\nWantedBy=multi-user.target\\n' >$unit
ln -s $unit /etc/systemd/system/multi-user.target.wants/
echo "meanwhile: $(systemctl is-enabled haproxy.service)"
exit "$FAILING"
"""
SYSTEMD = """mkdir -p /run/systemd/system
for each in /etc/systemd/system /lib/systemd/system /etc/init.d; do mount -t tmpfs none $each; done
mkdir /etc/systemd/system/multi-user.target.wants"""


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root for a mount namespace: sudo .venv/bin/pytest")
@pytest.mark.skipif(not shutil.which("systemctl"), reason="needs systemctl: apt-get install systemd")
@pytest.mark.parametrize("failing", [0, 1])
def test_services_of_what_is_installed_stay_idle(bare: Path, failing: int) -> None:
    (bare / "bin" / "apt-get").write_text(APT_GET)
    (bare / "bin" / "apt-get").chmod(0o755)
    system = Namespace(SYSTEMD)
    try:
        path = f"{bare}/bin:{os.environ['PATH']}"
        variables = ("env", f"PATH={path}", "SYSTEMD_OFFLINE=1", f"FAILING={failing}")
        install = [*system.prefix, *variables, str(bare / "checkout/scripts/apt-install"), "haproxy"]
        ran = subprocess.run(install, capture_output=True, text=True, timeout=30, check=False)
        assert ran.returncode == failing, ran.stderr
        assert "meanwhile: masked-runtime\n" in ran.stderr
        asked = [*system.prefix, *variables, "systemctl", "is-enabled", "haproxy.service"]
        state = subprocess.run(asked, capture_output=True, text=True, timeout=30, check=False).stdout
        assert state == "disabled\n"
        # One of another origin is neither masked nor disabled.
        ran = subprocess.run(install, capture_output=True, text=True, timeout=30, check=False)
        assert ran.returncode == 1
        assert "this machine has a haproxy.service of its own" in ran.stderr
    finally:
        system.end()


# As above, but it takes a while; and what dpkg says then.
SLOW_APT_GET = APT_GET.replace("unit=", "sleep 1\nunit=", 1)
DPKG_QUERY = """#!/bin/sh
[ ! -e /lib/systemd/system/haproxy.service ] || printf 'ii '
"""


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root for a mount namespace: sudo .venv/bin/pytest")
@pytest.mark.skipif(not shutil.which("systemctl"), reason="needs systemctl: apt-get install systemd")
def test_the_second_of_two_installations_waits_for_the_first(bare: Path) -> None:
    for name, text in (("apt-get", SLOW_APT_GET), ("dpkg-query", DPKG_QUERY)):
        (bare / "bin" / name).write_text(text)
        (bare / "bin" / name).chmod(0o755)
    system = Namespace(SYSTEMD)
    try:
        path = f"{bare}/bin:{os.environ['PATH']}"
        variables = ("env", f"PATH={path}", "SYSTEMD_OFFLINE=1", "FAILING=0")
        install = [*system.prefix, *variables, str(bare / "checkout/scripts/apt-install"), "haproxy"]
        both = [subprocess.Popen(install, stderr=subprocess.PIPE, text=True) for _ in range(2)]
        said = [each.communicate(timeout=30)[1] for each in both]
        assert [each.returncode for each in both] == [0, 0], said
        assert "".join(said).count("installing with apt-get") == 1
    finally:
        system.end()


@pytest.mark.skipif(not (CHECKOUT / ".venv").exists(), reason="needs what it sets up: scripts/setup dev")
def test_the_demo_from_another_directory(tmp_path: Path) -> None:
    """Set up before, it installs nothing and says so by silence."""
    demo = [str(CHECKOUT / "scripts/demo"), "--count", "997", "--for", "300ms", "--no-bpf"]
    ran = subprocess.run(
        [*demo, "--results", str(tmp_path / "results")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert not re.search(r"install|pip|apt", ran.stderr)
    (run,) = (tmp_path / "results").iterdir()
    assert f"{run.name}/report" in "".join(ran.stdout.split())
    assert ran.stdout.startswith("Held 997 of 997 WebSocket connections")
