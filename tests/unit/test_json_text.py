"""JSON that Python itself does not take."""

from __future__ import annotations

import json
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrator.json_text import LEVELS_MAX, JsonText, parse_json
from migrator.parts.base import single_value
from migrator.values import history_json, leaves

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
)


def nested(levels: int, opening: str = '{"k":', closing: str = "}", leaf: str = '"a [{ b"') -> str:
    return opening * levels + leaf + closing * levels


@given(JSON)
def test_json_is_parsed_as_python_does(value: Any) -> None:
    assert parse_json(json.dumps(value)) == value


@pytest.mark.parametrize("text", ['"a\nb"', '"\\ud800"', "NaN", "-Infinity", '"' + "[{" * LEVELS_MAX + '"'])
def test_what_wandb_stores_though_no_standard_allows_it_is_parsed(text: str) -> None:
    assert repr(parse_json(text)) == repr(json.loads(text, strict=False))


def test_many_values_side_by_side_are_not_deep() -> None:
    values: Any = [[{"a": []}]] * LEVELS_MAX
    assert parse_json(json.dumps(values)) == values


@pytest.mark.parametrize("levels", [LEVELS_MAX + 1, 1000, 100_000])
def test_dicts_beyond_the_last_level_are_left_as_text(levels: int) -> None:
    value, depth = parse_json(nested(levels, '{"k": ')), 0
    while isinstance(value, dict):
        value, depth = value["k"], depth + 1
    assert depth == LEVELS_MAX - 1
    assert isinstance(value, JsonText)
    assert value == nested(levels - depth)


@pytest.mark.parametrize("levels", [LEVELS_MAX, 1000, 100_000])
def test_a_deep_list_is_left_as_text_all_of_it_and_nothing_else(levels: int) -> None:
    value = parse_json(f'{{"a": [{nested(levels, "[ ", "]")}, "x y"], "b": [1], "c": {nested(9)}}}')
    assert value == {"a": f'[{nested(levels, "[", "]")},"x y"]', "b": [1], "c": json.loads(nested(9))}
    assert isinstance(value["a"], JsonText)


@pytest.mark.parametrize("text", ["[" * 1000, "]" * 1000 + "[" * 1000, "[}" * 1000, '{"a":"' + "[" * 1000, "1 2"])
def test_what_is_no_json_is_an_error_of_that_kind(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_json(text)


def test_an_integer_that_python_does_not_parse_is_left_as_text() -> None:
    digits = "-" + "9" * 5000
    value = parse_json(f'{{"a": {digits}, "b": {10**40}}}')
    assert value == {"a": digits, "b": 10**40}
    assert isinstance(value["a"], JsonText)


def test_the_deepest_values_go_through_all_that_is_recursive() -> None:
    """From as deep a stack as a worker's."""

    def behind(frames: int) -> None:
        if frames:
            return behind(frames - 1)
        for text in (nested(LEVELS_MAX - 1), nested(LEVELS_MAX - 1, "[", "]")):
            value = parse_json(f'{{"a": {text}}}')
            assert pickle.loads(pickle.dumps(value)) == value
            assert json.loads(history_json(value)) == value
            assert [leaf.note for leaf in leaves("a", value["a"])] == [None]
        return None

    behind(100)


def test_text_in_place_of_a_value_is_noted() -> None:
    (leaf,) = leaves("k", JsonText("[1]"))
    assert (leaf.payload, leaf.note) == ("[1]", JsonText.NOTE)
    single = single_value(JsonText("[1]"))
    assert (single.value, single.note) == ("[1]", ("converted", JsonText.NOTE))
