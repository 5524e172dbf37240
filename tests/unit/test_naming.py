"""Names: injective, deterministic, inside Neptune's limits, and untouched where they are legal already."""

from __future__ import annotations

import json
import re
from hashlib import sha256

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from migrator.limits import PATH_MAX_BYTES, RUN_ID_MAX_BYTES, RUN_NAME_MAX_BYTES
from migrator.naming import (
    RESERVED_LEVELS,
    Paths,
    clean_text,
    cut_utf8,
    legal_path,
    metric_base,
    neptune_run_id,
    neptune_run_name,
    project_names,
    source_key,
)

#: any text that JSON can carry, lone surrogates included (JSON joins pairs)
TEXT = st.text(st.characters(exclude_categories=()), max_size=30).map(lambda text: json.loads(json.dumps(text)))
#: texts that meet: few characters, empty levels, long levels
LIKELY_TO_MEET = st.text(st.sampled_from("a/_~.-"), max_size=6)
LONG = st.builds(
    lambda char, times, tail: char * times + tail, st.sampled_from("aé中😀/"), st.integers(700, 1100), TEXT
)
NAMES = TEXT | LIKELY_TO_MEET | LONG

deadline_free = settings(deadline=None, max_examples=150)


def digest(text: str, digits: int) -> str:
    return sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:digits]


def claim_all(keys: list[str]) -> dict[str, str]:
    paths = Paths()
    return {key: paths.take(key, key).name for key in keys}


class TestPaths:
    @deadline_free
    @given(st.lists(NAMES, unique=True))
    def test_two_keys_never_share_a_path(self, keys: list[str]) -> None:
        assert len(set(claim_all(keys).values())) == len(keys)

    @deadline_free
    @given(st.lists(LIKELY_TO_MEET, unique=True))
    def test_not_even_a_key_that_looks_like_the_suffixed_path_of_another(self, keys: list[str]) -> None:
        every = [*keys, *(f"{legal_path(key).name}~{digest(key, 8)}" for key in keys)]
        assert len(set(claim_all(list(dict.fromkeys(every))).values())) == len(set(every))

    @deadline_free
    @given(st.lists(NAMES, unique=True))
    def test_the_same_keys_in_the_same_order_give_the_same_paths(self, keys: list[str]) -> None:
        assert claim_all(keys) == claim_all(keys)

    @deadline_free
    @given(st.lists(NAMES, unique=True))
    def test_a_path_is_legal_in_neptune(self, keys: list[str]) -> None:
        for path in claim_all(keys).values():
            assert 0 < len(path.encode()) <= PATH_MAX_BYTES
            assert all(path.split("/"))

    @deadline_free
    @given(st.lists(NAMES, unique=True))
    def test_a_path_differs_from_its_key_only_with_a_reason(self, keys: list[str]) -> None:
        paths = Paths()
        for key in keys:
            path, reason = paths.take(key, key)
            assert (path == key) == (reason is None)

    @deadline_free
    @given(NAMES)
    def test_a_legal_path_stays_as_it_is(self, wanted: str) -> None:
        legal = legal_path(wanted).name
        assert legal_path(legal) == (legal, None)
        assert Paths().take(legal, legal) == (legal, None)

    def test_each_empty_level_becomes_an_underscore(self) -> None:
        assert legal_path("a//b") == ("a/_/b", "empty level")
        assert legal_path("/a/").name == "_/a/_"
        assert legal_path("///").name == "_/_/_/_"
        assert legal_path("").name == "_"

    def test_a_long_path_is_cut_at_a_character_and_gets_the_digest_of_all_of_it(self) -> None:
        wanted = "é" * 600
        path, reason = legal_path(wanted)
        assert path == "é" * 507 + "~" + digest(wanted, 8)  # 1014 bytes of 1015: half a character is none
        assert reason == "path over 1024 bytes"

    @pytest.mark.parametrize(("size", "is_cut"), [(PATH_MAX_BYTES, False), (PATH_MAX_BYTES + 1, True)])
    def test_the_limit_is_inclusive(self, size: int, is_cut: bool) -> None:
        path, reason = legal_path("x" * size)
        assert len(path) == PATH_MAX_BYTES
        assert (reason is not None) == is_cut

    def test_the_first_key_keeps_the_path_and_each_other_gets_the_digest_of_its_key(self) -> None:
        paths = Paths()
        assert paths.take("a//b", "a//b").name == "a/_/b"
        assert paths.take("a/_/b", "a/_/b") == (f"a/_/b~{digest('a/_/b', 8)}", "another key has this path")

    def test_nested_keys_and_keys_with_slashes_are_different_source_keys(self) -> None:
        assert source_key(["a", "b"]) == '["a","b"]'
        assert source_key(["a/b"]) == '["a/b"]'
        assert source_key(["ü"]) == '["ü"]'

    @deadline_free
    @given(st.lists(TEXT, max_size=3), st.lists(TEXT, max_size=3))
    def test_different_keys_from_the_top_are_different_source_keys(self, one: list[str], other: list[str]) -> None:
        assert (source_key(one) == source_key(other)) == (one == other)


class TestMetrics:
    @pytest.mark.parametrize("level", sorted(RESERVED_LEVELS))
    def test_a_metric_at_a_reserved_level_goes_below_metrics(self, level: str) -> None:
        assert metric_base(level, None) == (f"metrics/{level}", "first level is reserved")
        assert metric_base(f"{level}/x", None).name == f"metrics/{level}/x"
        assert metric_base(f"{level}x/y", None) == (f"{level}x/y", None)

    def test_the_reserved_levels_are_those_of_the_mapping(self) -> None:
        words = "sys config summary wandb system runtime files source_code checkpoints artifacts migration"
        assert set(words.split()) == RESERVED_LEVELS

    def test_a_chosen_namespace_holds_all_metrics(self) -> None:
        assert metric_base("loss", "train") == ("train/loss", None)
        assert metric_base("config/lr", "train") == ("train/config/lr", None)

    @deadline_free
    @given(NAMES)
    def test_no_metric_lands_at_a_reserved_level(self, key: str) -> None:
        path = Paths().take(key, metric_base(key, None).name).name
        assert path.split("/")[0] not in RESERVED_LEVELS


class TestProjects:
    @deadline_free
    @given(st.sets(NAMES), st.dictionaries(LIKELY_TO_MEET, LIKELY_TO_MEET.filter(bool), max_size=2))
    def test_two_projects_never_share_a_name_unless_the_user_says_so(
        self, names: set[str], chosen: dict[str, str]
    ) -> None:
        result = project_names(names, chosen)
        assert set(result) == names
        free = [renamed.name.casefold() for name, renamed in result.items() if name not in chosen]
        decided = {chosen[name].casefold() for name in names if name in chosen}
        assert len(set(free)) == len(free)
        assert not decided & set(free)
        assert all(result[name].name == chosen[name] for name in names if name in chosen)

    @deadline_free
    @given(st.lists(NAMES, unique=True), st.randoms())
    def test_the_order_of_the_listing_changes_nothing(self, names: list[str], chance: object) -> None:
        shuffled = [*names]
        chance.shuffle(shuffled)  # type: ignore[attr-defined]
        assert project_names(shuffled, {}) == project_names(names, {})

    @deadline_free
    @given(st.sets(NAMES))
    def test_names_hold_only_what_neptune_takes_and_differ_only_with_a_reason(self, names: set[str]) -> None:
        for name, renamed in project_names(names, {}).items():
            assert re.fullmatch(r"[A-Za-z0-9.-]{3,128}", renamed.name)
            assert (renamed.name == name) == (renamed.reason is None)

    @deadline_free
    @given(st.lists(st.from_regex(r"[A-Za-z0-9.-]{3,128}", fullmatch=True), unique_by=str.casefold).map(set))
    def test_legal_names_stay_as_they_are(self, names: set[str]) -> None:
        assert {name: renamed.name for name, renamed in project_names(names, {}).items()} == {n: n for n in names}

    def test_underscores_and_other_characters_become_dashes(self) -> None:
        assert project_names(["my_proj ect.ü"], {})["my_proj ect.ü"] == ("my-proj-ect.-", "not allowed in Neptune")

    def test_a_short_name_gets_a_suffix(self) -> None:
        names = project_names(["a", "é", "ab", "abc"], {})
        assert {name: renamed.name for name, renamed in names.items()} == {
            "a": "a-wandb",
            "é": "--wandb",
            "ab": "ab-wandb",
            "abc": "abc",
        }
        assert names["ab"].reason == "Neptune wants at least 3 characters"

    @pytest.mark.parametrize(("size", "is_cut"), [(128, False), (129, True)])
    def test_a_long_name_is_cut_and_gets_its_digest(self, size: int, is_cut: bool) -> None:
        name = "x" * size
        renamed = project_names([name], {})[name]
        assert renamed.name == ("x" * 121 + "-" + digest(name, 6) if is_cut else name)
        assert (renamed.reason is not None) == is_cut

    def test_long_names_that_meet_stay_apart_within_the_limit(self) -> None:
        names = ["x_" + "y" * 126, "x-" + "y" * 126]
        assert project_names(names, {})[names[0]].name == f"x-{'y' * 119}-{digest(names[0], 6)}"

    def test_names_are_compared_without_case(self) -> None:
        names = project_names(["Demo", "demo", "DEMO_"], {"DEMO_": "other"})
        assert names["Demo"] == ("Demo", None)
        assert names["demo"] == (f"demo-{digest('demo', 6)}", "demo is taken by another project")

    def test_the_name_that_needs_no_change_keeps_it(self) -> None:
        names = project_names(["a_b", "a-b", "a b"], {})
        assert names["a-b"] == ("a-b", None)
        assert names["a b"] == (f"a-b-{digest('a b', 6)}", "a-b is taken by another project")
        assert names["a_b"].name == f"a-b-{digest('a_b', 6)}"

    def test_else_the_first_by_name_keeps_it(self) -> None:
        names = project_names(["a_b", "a b"], {})
        assert names["a b"].name == "a-b"
        assert names["a_b"].name == f"a-b-{digest('a_b', 6)}"

    def test_the_users_choice_wins(self) -> None:
        names = project_names(["a_b", "a-b"], {"a_b": "a-b"})
        assert names["a_b"] == ("a-b", "chosen by --project-map")
        assert names["a-b"].name == f"a-b-{digest('a-b', 6)}"


class TestRunIds:
    @deadline_free
    @given(st.lists(NAMES, unique=True))
    def test_two_runs_never_share_an_id(self, ids: list[str]) -> None:
        assert len({neptune_run_id(run_id).name for run_id in ids}) == len(ids)

    @deadline_free
    @given(NAMES)
    def test_an_id_is_one_that_neptune_takes(self, run_id: str) -> None:
        name, reason = neptune_run_id(run_id)
        assert 0 < len(name.encode()) <= RUN_ID_MAX_BYTES
        assert "/" not in name
        assert (name == run_id) == (reason is None)
        assert neptune_run_id(name) == (name, None)

    def test_an_id_that_neptune_refuses_becomes_a_readable_cut_with_a_digest(self) -> None:
        assert neptune_run_id("a/b").name == f"a-b-{digest('a/b', 8)}"
        long = "x" * (RUN_ID_MAX_BYTES + 1)
        assert neptune_run_id(long).name == "x" * (RUN_ID_MAX_BYTES - 9) + "-" + digest(long, 8)
        assert neptune_run_id("x" * RUN_ID_MAX_BYTES).reason is None


class TestRunNames:
    @deadline_free
    @given(st.none() | NAMES, NAMES.filter(bool))
    def test_a_name_is_one_that_neptune_takes(self, name: str | None, run_id: str) -> None:
        given_name, reason = neptune_run_name(name, run_id)
        assert 0 < len(given_name.encode()) <= RUN_NAME_MAX_BYTES
        if name and name.strip():
            assert (given_name == name) == (reason is None)

    @pytest.mark.parametrize(("name", "reason"), [(None, None), ("", None), ("  ", "name is blank")])
    def test_without_a_name_the_id_stands_in(self, name: str | None, reason: str | None) -> None:
        assert neptune_run_name(name, "abc") == ("abc", reason)

    def test_a_long_name_is_cut_at_a_character(self) -> None:
        name, reason = neptune_run_name("é" * 400, "abc")
        assert name == "é" * 365
        assert reason == "name over 730 bytes"


class TestText:
    @deadline_free
    @given(TEXT)
    def test_only_lone_surrogates_are_replaced(self, text: str) -> None:
        expected = "".join("�" if "\ud800" <= char <= "\udfff" else char for char in text)
        assert clean_text(text) == expected

    def test_a_split_pair_is_joined(self) -> None:
        assert clean_text("\ud83d\ude00") == "😀"

    @deadline_free
    @given(TEXT.map(clean_text), st.integers(0, 60))
    def test_a_cut_is_the_longest_start_that_fits(self, text: str, max_bytes: int) -> None:
        cut = cut_utf8(text, max_bytes)
        assert text.startswith(cut)
        assert len(cut.encode()) <= max_bytes
        assert cut == text or len(text[: len(cut) + 1].encode()) > max_bytes
