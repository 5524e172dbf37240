"""Records of a log about the run as a whole: x axes of metrics, preemption, linked artifacts."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Any

from migrator.records import Scalar
from migrator.values import compact_json


class Extras:
    """Collects these records; `attributes` converts them."""

    def __init__(self) -> None:
        self._axes: dict[str, str] = {}  # by metric
        self._glob_axes: dict[str, str] = {}  # by glob
        self._preempting = False
        self._linked: dict[str, None] = {}

    def add(self, record: Any) -> None:
        """Add a record. Records of other kinds are ignored."""
        match record.WhichOneof("record_type"):
            case "metric":
                self._add_metric(record.metric)
            case "preempting":
                self._preempting = True
            case "request" if record.request.WhichOneof("request_type") == "link_artifact":
                self._linked[_link(record.request.link_artifact)] = None
            case "noop_link_artifact":  # from older SDKs; 0.31 no longer knows its fields, but the bytes are there
                old = type(record.request.link_artifact).FromString(record.noop_link_artifact.SerializeToString())
                self._linked[_link(old)] = None

    def _add_metric(self, metric: Any) -> None:
        if not metric.step_metric:
            return
        if metric.glob_name:
            self._glob_axes[metric.glob_name] = _plain(metric.step_metric)
        elif metric.name:
            self._axes[_plain(metric.name)] = _plain(metric.step_metric)

    def attributes(self, keys: Iterable[str]) -> dict[str, Scalar]:
        """Attributes by name below `wandb/`. A glob applies to metrics in `keys` that have no definition of their own.

        Globs do not apply to W&B's own metrics, which begin with `_`, nor to an axis itself.
        """
        axes = dict(self._axes)
        for key in keys:
            if key not in axes and not key.startswith("_"):
                found = (axis for glob, axis in self._glob_axes.items() if fnmatchcase(key, _plain(glob)))
                axis = next(found, key)
                if axis != key:
                    axes[key] = axis
        told: dict[str, Scalar] = {f"step_metric/{key}": axis for key, axis in axes.items()}
        if self._preempting:
            told["preempting"] = True
        if self._linked:
            told["link_artifact"] = compact_json([*self._linked])
        return told


def _plain(name: str) -> str:
    """The name of a metric as W&B shows it, without the SDK's escapes for dots in a key."""
    return name.replace("\\.", ".")


def _link(record: Any) -> str:
    """The target of an artifact's link, as W&B writes it: entity/project/portfolio:alias."""
    place = "/".join(
        word for word in (record.portfolio_entity, record.portfolio_project, record.portfolio_name) if word
    )
    aliases = ",".join(record.portfolio_aliases)
    return f"{place}:{aliases}" if aliases else place
