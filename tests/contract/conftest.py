"""The fixtures of the tests of the state database."""

from tests.contract.store_fixtures import blank_url, empty_database, empty_file, store, url
from tests.contract.store_rows import worker

__all__ = ["blank_url", "empty_database", "empty_file", "store", "url", "worker"]
