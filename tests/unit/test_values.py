"""What a logged value is: its leaves, and its JSON text."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from migrator.values import Leaf, SeriesKey, SeriesKind, compact_json, history_json, leaves

NUMBER, TEXT, HISTOGRAM, FILE = SeriesKind
IMAGE = {"_type": "image-file", "path": "media/images/a.png"}

finite = st.floats(allow_nan=False, allow_infinity=False)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
    max_leaves=12,
)


def found(value: Any) -> list[tuple[str, str, SeriesKind, Any]]:
    """The leaves of a value logged as `k`, without notes."""
    return [(leaf.series.key, leaf.series.slot, leaf.series.kind, leaf.payload) for leaf in leaves("k", value)]


def note_of(value: Any) -> str | None:
    (leaf,) = leaves("k", value)
    return leaf.note


def test_none_means_not_logged() -> None:
    assert found(None) == []


@pytest.mark.parametrize("value", [0, -1, 10**40, 0.5, math.inf])
def test_a_number_is_a_number(value: float) -> None:
    assert [*leaves("k", value)] == [Leaf(SeriesKey("k", "", NUMBER), value)]


def test_a_bool_is_a_number_with_a_note() -> None:
    assert [*leaves("k", True)] == [Leaf(SeriesKey("k", "", NUMBER), 1.0, "bool as 0/1")]
    assert type(found(False)[0][3]) is float


def test_wandbs_words_for_what_json_cannot_hold_are_numbers() -> None:
    assert found("Infinity") == [("k", "", NUMBER, math.inf)]
    assert found("-Infinity") == [("k", "", NUMBER, -math.inf)]
    assert math.isnan(found("NaN")[0][3])


@pytest.mark.parametrize("text", ["", "nan", "Inf", " NaN", "1.5", "x"])
def test_any_other_string_is_text(text: str) -> None:
    assert [*leaves("k", text)] == [Leaf(SeriesKey("k", "", TEXT), text)]


def test_a_dict_without_type_gives_its_leaves_with_joined_keys() -> None:
    value = {"a": 1, "b": {"c": "x", "d": {}, "e": None}, "_type": 3}
    assert found(value) == [("k.a", "", NUMBER, 1), ("k.b.c", "", TEXT, "x"), ("k._type", "", NUMBER, 3)]


def test_a_histogram_stays_whole() -> None:
    value = {"_type": "histogram", "bins": [0, 1], "values": [2]}
    assert found(value) == [("k", "", HISTOGRAM, value)]


@pytest.mark.parametrize(
    "kind",
    [
        "image-file",
        "audio-file",
        "video-file",
        "html-file",
        "table-file",
        "plotly-file",
        "object3D-file",
        "molecule-file",
    ],
)
def test_an_object_with_a_path_is_a_file(kind: str) -> None:
    value = {"_type": kind, "path": "media/x"}
    assert found(value) == [("k", "", FILE, value)]


def test_a_caption_goes_beside_its_file() -> None:
    value = IMAGE | {"caption": "a cat"}
    assert found(value) == [("k", "", FILE, value), ("k", "caption", TEXT, "a cat")]
    assert len(found(IMAGE | {"caption": ""})) == len(found(IMAGE | {"caption": None})) == 1


def test_a_list_of_media_gives_numbered_files() -> None:
    second = IMAGE | {"caption": "two"}
    assert found([IMAGE, second]) == [
        ("k", "0", FILE, IMAGE),
        ("k", "1", FILE, second),
        ("k", "1/caption", TEXT, "two"),
    ]


def test_separated_images_are_a_list_of_media() -> None:
    value = {"_type": "images/separated", "filenames": ["a.png", "b.png"], "captions": ["one"]}
    assert [(slot, kind, payload if kind is TEXT else payload["path"]) for _, slot, kind, payload in found(value)] == [
        ("0", FILE, "a.png"),
        ("0/caption", TEXT, "one"),
        ("1", FILE, "b.png"),
    ]


@pytest.mark.parametrize("captions", [None, "abc", False, 3])
def test_captions_that_are_no_list_are_none(captions: Any) -> None:
    value = {"_type": "images/separated", "filenames": ["a.png"], "captions": captions}
    assert [slot for _, slot, _, _ in found(value)] == ["0"]


@pytest.mark.parametrize("value", [{"_type": "mystery", "n": 1}, {"_type": "image-file"}, {"_type": "x", "path": 3}])
def test_an_object_of_unknown_shape_becomes_text_with_a_note(value: dict[str, Any]) -> None:
    assert found(value) == [("k", "", TEXT, json.dumps(value, separators=(",", ":")))]
    assert note_of(value) == f"{value['_type']} as JSON text"


@pytest.mark.parametrize("value", [[], [1, "a", None], [IMAGE, 1], [[IMAGE]]])
def test_a_list_of_anything_else_becomes_json_text(value: list[Any]) -> None:
    assert found(value) == [("k", "", TEXT, json.dumps(value, separators=(",", ":")))]
    assert note_of(value) is None


@settings(deadline=None)
@given(json_values)
def test_values_without_objects_lose_nothing_and_name_each_series_once(value: Any) -> None:
    """Each scalar or list below dicts is one leaf."""

    def count(inner: Any) -> int:
        return sum(map(count, inner.values())) if isinstance(inner, dict) else inner is not None

    assert len(found(value)) == count(value)


class TestJson:
    @settings(deadline=None)
    @given(json_values)
    def test_it_can_be_read_back(self, value: Any) -> None:
        def words(inner: Any) -> Any:
            match inner:
                case float() if not math.isfinite(inner):
                    return "NaN" if math.isnan(inner) else "Infinity" if inner > 0 else "-Infinity"
                case dict():
                    return {key: words(item) for key, item in inner.items()}
                case list():
                    return [*map(words, inner)]
            return inner

        assert json.loads(compact_json(value)) == words(value)

    def test_it_is_compact_and_keeps_characters_and_order(self) -> None:
        assert compact_json({"ü": [1, 2.0, None], "a": {}}) == '{"ü":[1,2.0,null],"a":{}}'

    def test_nan_and_infinities_are_wandbs_words(self) -> None:
        assert compact_json([math.nan, {"a": -math.inf}, math.inf]) == '["NaN",{"a":"-Infinity"},"Infinity"]'

    @settings(deadline=None)
    @given(st.integers(-(10**14), 10**14))
    def test_in_a_history_a_whole_float_and_its_integer_are_one_text(self, number: int) -> None:
        assert history_json([float(number), {"a": float(number)}]) == history_json([number, {"a": number}])

    @settings(deadline=None)
    @given(st.lists(finite))
    def test_in_a_history_no_number_changes_its_value(self, numbers: list[float]) -> None:
        assert json.loads(history_json(numbers)) == numbers

    def test_what_json_does_not_know_is_its_text(self) -> None:
        assert compact_json([{1}]) == '["{1}"]'
        assert note_of({1}) == "unknown type as JSON text"
