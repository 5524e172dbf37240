"""Is a path on a network file system? SQLite's locks do not hold there, and a database would be damaged."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

# Types as mount(8) names them. fuse.* are those that put a network behind FUSE.
_NETWORK_TYPES = """
    nfs nfs4 cifs smb smb2 smb3 smbfs afpfs webdav davfs ncpfs afs coda lustre gpfs mmfs ceph beegfs glusterfs panfs
    pvfs2 orangefs wekafs ocfs2 gfs2 quobyte fuse.sshfs fuse.glusterfs fuse.ceph fuse.ceph-fuse fuse.davfs
    fuse.davfs2 fuse.rclone fuse.s3fs fuse.gcsfuse fuse.goofys fuse.mount-s3 fuse.blobfuse fuse.blobfuse2 fuse.juicefs
    fuse.cvmfs2 fuse.smbnetfs fuse.quobyte fuse.moosefs fuse.hdfs
"""
NETWORK_TYPES = frozenset(_NETWORK_TYPES.split())


class Mount(NamedTuple):
    """Where a file system hangs, and its type."""

    point: str
    type: str


def network_type(path: Path, mounts: Iterable[Mount] | None = None) -> str | None:
    """The type of the network file system that holds `path` (which need not exist); None: it is a local one."""
    resolved = path.resolve()
    found = Mount("", "")
    for mount in mounts if mounts is not None else mounted():
        # Of equal mount points the later one hides the earlier.
        if len(mount.point) >= len(found.point) and resolved.is_relative_to(mount.point):
            found = mount
    return found.type if found.type in NETWORK_TYPES else None


def mounted() -> list[Mount]:
    """What is mounted now, in order of mounting."""
    proc = Path("/proc/self/mounts")
    if proc.exists():
        # Octal escapes stand for the white space that separates fields.
        lines = proc.read_bytes().splitlines()
        return [Mount(_unescaped(fields[1]), fields[2].decode()) for fields in map(bytes.split, lines)]
    import psutil  # only here: Linux needs no 20 ms more to start

    return [Mount(m.mountpoint, m.fstype) for m in psutil.disk_partitions(all=True)]


def _unescaped(field: bytes) -> str:
    for code, char in ((b"\\040", b" "), (b"\\011", b"\t"), (b"\\012", b"\n"), (b"\\134", b"\\")):
        field = field.replace(code, char)
    return field.decode("utf-8", "surrogateescape")
