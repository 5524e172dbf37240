"""Where runs go, as state databases keep it."""

from __future__ import annotations

from pathlib import Path

import pytest

from migrator.job.address import Address


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("https://neptune.example workspace acme", Address(server="https://neptune.example", workspace="acme")),
        ("https://neptune.example", Address(server="https://neptune.example")),
        ("http://a workspace b workspace c", Address(server="http://a workspace b", workspace="c")),
        ("offline:/data/neptune workspace files", Address(Path("/data/neptune workspace files"))),
    ],
)
def test_an_address_is_read_as_it_was_written(text: str, address: Address) -> None:
    assert Address.parse(text) == address
    assert address.text == text


def test_two_paths_of_one_directory_are_one_address(tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "files")
    one, other = (Address.of_directory(tmp_path / name) for name in ("files", "link"))
    assert one.is_same(other)
    assert not one.is_same(Address(server=str(tmp_path / "files")))
