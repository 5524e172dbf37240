"""What this machine is like: versions, limits, disks, and the environment that requests go out in."""

from __future__ import annotations

import platform
import resource
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from urllib.parse import urlsplit

from rich.filesize import decimal

from migrator.commands.doctor.checks import Check, bad, ok, warn
from migrator.disk import existing
from migrator.errors import FULL_BELOW_BYTES, ExitCode
from migrator.settings import tool_version

TESTED = {"wandb": "0.31.", "neptune-scale": "0.30."}  # this tool uses private parts of both
SCARCE_BELOW_BYTES = 10 << 30  # ours: some large checkpoints, or the offline files of some thousand runs
OPEN_FILES_MIN, OPEN_FILES_SAFE = 128, 1024  # ours, of a process: a worker that copies tiny runs stops at 64

PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "all_proxy", "no_proxy")
CERTIFICATES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR")
#: variables that switch the check of certificates off, and the values that do
UNCHECKED = {
    "WANDB_INSECURE_DISABLE_SSL": ("true", "1"),
    "NEPTUNE_ALLOW_SELF_SIGNED_CERTIFICATE": ("true", "1"),
    "NEPTUNE_VERIFY_SSL": ("false", "0"),
}


def versions() -> Iterator[Check]:
    found: dict[str, str] = {}
    for package in ("wandb", "neptune-scale", "neptune-api"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            yield bad("versions", f"{package} is not installed", "`pip install --force-reinstall wandb-to-neptune`")
    packages = ", ".join(f"{package} {number}" for package, number in found.items())
    told = f"migrate {tool_version()}, Python {platform.python_version()} on {platform.system()}; {packages}"
    untested = [name for name, tested in TESTED.items() if not found.get(name, tested).startswith(tested)]
    if untested:
        wanted = " ".join(f"'{name}=={TESTED[name]}*'" for name in untested)
        yield warn("versions", f"{told}: not the versions that migrate was tested with", f"`pip install {wanted}`")
    else:
        yield ok("versions", told)


def open_files() -> Iterator[Check]:
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY:
        yield ok("open files", "no limit")
        return
    told = f"a process may open {limit:,} files"
    what_next = f"`ulimit -n {OPEN_FILES_SAFE}` in the shell that starts `migrate run`, or fewer --workers"
    if limit < OPEN_FILES_MIN:
        yield bad("open files", f"{told}, which is too few", what_next, ExitCode.UNEXPECTED)
    elif limit < OPEN_FILES_SAFE:
        yield warn("open files", f"{told}, which may be too few", what_next)
    else:
        yield ok("open files", told)


def environment(variables: Mapping[str, str]) -> Iterator[Check]:
    """Proxies and certificates: names of variables and hosts, never a password."""
    proxies = [f"{name} ({_host(variables[name])})" for name in PROXIES if variables.get(name)]
    yield ok("proxies", ", ".join(proxies) or "none set")
    named = [name for name in CERTIFICATES if variables.get(name)]
    unchecked = [name for name, values in UNCHECKED.items() if variables.get(name, "").lower() in values]
    if missing := [name for name in named if not Path(variables[name]).exists()]:
        yield bad("certificates", f"{', '.join(missing)} names a file that does not exist", "Correct or unset it")
    elif unchecked:
        yield warn(
            "certificates",
            f"{', '.join(unchecked)} switches their check off: who answers may be anybody",
            "Better name your own certificates: REQUESTS_CA_BUNDLE (W&B), SSL_CERT_FILE (Neptune)",
        )
    else:
        yield ok("certificates", f"as {', '.join(named)} says" if named else "the usual ones are trusted")


def _host(address: str) -> str:
    """Where a proxy is, without user and password."""
    if "@" not in address:
        return address
    try:
        parts = urlsplit(address if "://" in address else f"//{address}")
        return f"***@{parts.hostname}" + (f":{parts.port}" if parts.port else "")
    except ValueError:
        return "***"


def disk(name: str, directory: Path, what: str) -> Iterator[Check]:
    """Whether files can be made in the directory, which need not exist, and how much space there is."""
    there = existing(directory)
    with tempfile.TemporaryFile(dir=there):
        pass
    free = shutil.disk_usage(there).free
    told = f"{decimal(free)} free for {what} in {directory}"
    if free < FULL_BELOW_BYTES:
        yield bad(name, told, "Free some space, or name another place", ExitCode.UNEXPECTED)
    elif free < SCARCE_BELOW_BYTES:
        yield warn(name, told, "`migrate plan`, after `migrate inventory`, says how much is needed")
    else:
        yield ok(name, told)
