"""Records of a log that say something of the run as a whole: x axes of metrics, preemption, linked artifacts."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Any

from migrator.records import Scalar
from migrator.values import compact_json


class Extras:
    """Collects them; `attributes` says what they mean."""

    def __init__(self) -> None:
        self._axes: dict[str, str] = {}  # by metric
        self._glob_axes: dict[str, str] = {}  # by glob
        self._preempting = False
        self._linked: dict[str, None] = {}

    def add(self, record: Any) -> None:
        """Take note of a record; of those that mean nothing here, none is."""
        match record.WhichOneof("record_type"):
            case "metric":
                self._add_metric(record.metric)
            case "preempting":
                self._preempting = True
            case "request" if record.request.WhichOneof("request_type") == "link_artifact":
                self._linked[_link(record.request.link_artifact)] = None
            case "noop_link_artifact":  # of older SDKs; 0.31 has taken its fields away, but not the bytes
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
        """By name below `wandb/`. A glob stands for those of the metrics `keys` that no definition of their own has.

        W&B's own metrics, which begin with `_`, and an axis itself are not meant by globs.
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
    """A metric as W&B shows it: the SDK escapes dots that are part of a key."""
    return name.replace("\\.", ".")


def _link(record: Any) -> str:
    """Where an artifact was linked to, as W&B writes it: entity/project/portfolio:alias."""
    place = "/".join(
        word for word in (record.portfolio_entity, record.portfolio_project, record.portfolio_name) if word
    )
    aliases = ",".join(record.portfolio_aliases)
    return f"{place}:{aliases}" if aliases else place
