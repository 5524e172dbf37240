"""Compares stored files with the digests: their sizes, or their md5s."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from migrator.copying.comparison import RunComparison, is_same
from migrator.copying.digests import FileDigest, hash_of, series_digest
from migrator.copying.findings import Files, How
from migrator.copying.points import NAMED
from migrator.copying.verify_words import told
from migrator.destinations.base import ReadBack, ReadFile, Stored


def compare_files(comparisons: Sequence[RunComparison], project: str, back: ReadBack, how: How) -> None:
    """Add findings about stored files to the results."""
    content = how.files is Files.MD5
    asked: list[tuple[RunComparison, str, int | None, ReadFile]] = []
    for comparison in comparisons:
        asked += [(comparison, path, None, file) for path, file, _ in comparison.files]
        asked += [
            (comparison, path, step, file) for path, files in comparison.series_files.items() for step, file in files
        ]
    digests = {(id(comparison), path): want for comparison in comparisons for path, _, want in comparison.files}
    contents: dict[tuple[int, str], dict[int, str]] = {}
    bad: set[tuple[int, str]] = set()
    stored = back.stored(project, [file for *_, file in asked], content=content)
    for (comparison, path, step, file), seen in zip(asked, stored, strict=True):
        name = (id(comparison), path)
        if step is not None:
            comparison.result.files += 1
        if (wrong := _wrong(file, seen, digests.get(name), content=content)) is not None:
            bad.add(name)
            where = path if step is None else f"{path} at step {step / 1e6:g}"
            want = told(digests[name]) if name in digests else f"{file.size_bytes:,} bytes"
            (comparison.result.cannot if seen.problem else comparison.result.differs)(where, want, wrong)
        elif step is not None and seen.md5 is not None:
            contents.setdefault(name, {})[step] = seen.md5
    if content:
        for comparison in comparisons:
            _compare_contents(comparison, contents, bad)


def _wrong(file: ReadFile, seen: Stored, want: FileDigest | None, *, content: bool) -> str | None:
    """What is wrong with a stored file. None: nothing."""
    if seen.problem:
        return seen.problem
    if seen.size_bytes is None:
        return "the run refers to it, but the file is not in the storage"
    if seen.size_bytes != file.size_bytes:
        return f"{seen.size_bytes:,} bytes in the storage"
    if content and want is not None and seen.md5 != want.md5:
        return f"{seen.size_bytes:,} bytes, md5 {seen.md5}"
    return None


def _compare_contents(
    comparison: RunComparison, contents: Mapping[tuple[int, str], Mapping[int, str]], bad: set[tuple[int, str]]
) -> None:
    """Compare the contents of file series. Without the source, only the sum of all md5s is known."""
    for path, files in comparison.series_files.items():
        found, want = contents.get((id(comparison), path), {}), comparison.series[path]
        if (id(comparison), path) in bad or want.refused or len(found) != len(files) or len(files) != want.count:
            continue
        steps, hashes = (
            np.array([*found], np.int64),
            np.array([hash_of(md5.encode()) for md5 in found.values()], np.uint64),
        )
        if series_digest(steps, steps, hashes, hashes).content == want.content:
            continue
        words = f"{want.count:,} files", "one or more of the files have different content"
        if (
            comparison.source is not None
            and comparison.has_points(path)
            and is_same(comparison.source.digests[path][1], want)
        ):
            sent = comparison.source.files[path]
            named = _named({step: (md5, found[step]) for step, md5 in sent.items() if found.get(step, md5) != md5})
            words = named or words
        comparison.result.differs(path, *words)


def _named(differing: Mapping[int, tuple[str, str]]) -> tuple[str, str] | None:
    """The first of the files that differ, as sent and as found: md5s by step. None: there are none."""
    first = sorted(differing)[:NAMED]
    sent, found = ("; ".join(f"step {step / 1e6:g}: md5 {differing[step][n]}" for step in first) for n in (0, 1))
    more = f" ({len(differing):,} files differ)" if len(differing) > len(first) else ""
    return (sent, found + more) if first else None
