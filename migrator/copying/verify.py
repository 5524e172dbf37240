"""Compares runs that are read back with what was sent or, point by point, with the source. Pure but for the reading.

    runs and attributes  ->  single values, sizes and types, what was never sent              comparison
    points               ->  only their number and ends, their digests, or each of them      verify_series
    files                ->  their size in the storage, or their md5                         verify_files

Each path is either correct or a finding: it differs, or cannot be verified. Correct paths are only counted. What is
expected comes from the digests that were kept during the copy. If the source is read again, it has to have the same
digests: then differences can be named. If not, it has changed since, which is no difference.
"""

from __future__ import annotations

from collections.abc import Sequence

from migrator.copying.comparison import RunComparison
from migrator.copying.findings import Expected, How, Level, Result
from migrator.copying.verify_files import compare_files
from migrator.copying.verify_series import compare_series
from migrator.destinations.base import ReadBack


def verify_runs(expected: Sequence[Expected], project: str, back: ReadBack, how: How) -> list[Result]:
    """Compare runs of one project. Results are in the order of `expected`. Raises `RunError` or `UserError`."""
    known = [one for one in expected if one.is_known]
    found = back.runs(project, [one.run_id for one in known]) if known else {}
    comparisons = [RunComparison(one, found.get(one.run_id)) for one in expected]
    there = [comparison for comparison in comparisons if comparison.begin()]
    compare_series(there, project, back, how)
    if how.level is not Level.COUNTS:
        compare_files(there, project, back, how)
    for comparison in comparisons:
        comparison.end()
    return [comparison.result for comparison in comparisons]
