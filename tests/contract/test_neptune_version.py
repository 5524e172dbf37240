"""What this tool takes from neptune-scale 0.30 and neptune-api, private parts included: a new version must not differ.

A failure here says which name, signature or wire format is new. Read `migrator/destinations/neptune_*.py` with it in
hand before the dependency in `pyproject.toml` is moved.
"""

from __future__ import annotations

import sqlite3
from importlib.metadata import version
from inspect import Parameter, signature
from pathlib import Path
from typing import Any

import pytest
from neptune_api.api.ingestion import check_details
from neptune_api.client import AuthenticatedClient, NeptuneAuthenticator
from neptune_api.credentials import Credentials
from neptune_api.models.provider import Provider
from neptune_api.proto.google_rpc.code_pb2 import Code
from neptune_api.proto.neptune_pb.ingest.v1 import common_pb2
from neptune_api.proto.neptune_pb.ingest.v1.ingest_pb2 import IngestCode
from neptune_api.proto.neptune_pb.ingest.v1.pub import client_pb2, ingest_pb2, request_status_pb2
from neptune_scale import exceptions
from neptune_scale.net import projects
from neptune_scale.net.api_client import ApiClient, FileSignRequest
from neptune_scale.sync import operations_repository, parameters
from neptune_scale.sync.files import generate_destination, guess_mime_type_from_file
from neptune_scale.sync.operations_repository import OperationsRepository
from neptune_scale.sync.sync_process import CODE_TO_ERROR
from neptune_scale.util import envs

from migrator import limits
from migrator.destinations.neptune import answers as neptune_answers
from migrator.destinations.neptune import safe_client as neptune_client
from migrator.destinations.neptune import wire as neptune_wire
from migrator.destinations.neptune.connection import check_version
from migrator.errors import UserError
from tests.contract.neptune_places import OnlinePlace, opened


def test_the_installed_version_is_the_one_that_was_tested() -> None:
    check_version()
    assert version("neptune-api").startswith("0.24.")


def test_another_version_is_refused_with_the_command_that_helps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metadata = tmp_path / "neptune_scale-0.31.0.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text("Metadata-Version: 2.1\nName: neptune-scale\nVersion: 0.31.0\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(
        UserError, match=r"0\.31\.0 is installed.*pip install 'neptune-scale==0\.30\.\*'.*--safe-client"
    ):
        check_version()


@pytest.mark.parametrize(
    ("function", "parameters"),
    [
        (ApiClient, "api_token"),
        (ApiClient.submit, "self, operation, family"),
        (ApiClient.check_batch, "self, request_ids, project"),
        (ApiClient.fetch_file_storage_urls, "self, file_sign_requests, project"),
        (ApiClient.complete_multipart_upload, "self, upload_id, project, path, etags"),
        (ApiClient.close, "self"),
        (AuthenticatedClient.get_httpx_client, "self"),
        (FileSignRequest, "path, size, permission"),
        (generate_destination, "run_id, attribute_name, filename, step"),
        (guess_mime_type_from_file, "local_path, destination"),
        (OperationsRepository, "db_path, timeout"),
        (OperationsRepository.init_db, "self, timer"),
        (OperationsRepository.save_metadata, "self, project, run_id, timer"),
        (OperationsRepository.get_metadata, "self, timer"),
        (OperationsRepository._get_connection, "self, timer"),
        (OperationsRepository.close, "self, cleanup_files, timer"),
        (check_details.sync_detailed, "client, body, project_identifier"),
        (Credentials.from_api_key, "api_key"),
        (NeptuneAuthenticator.sync_auth_flow, "self, request"),
        (envs.get_bool, "name, default_missing, default_invalid"),
    ],
    ids=lambda value: getattr(value, "__qualname__", ""),
)
def test_a_function_has_the_parameters_that_we_give_it(function: Any, parameters: str) -> None:
    found = signature(function).parameters.values()
    assert ", ".join(parameter.name for parameter in found) == parameters
    assert not any(parameter.kind is Parameter.VAR_KEYWORD for parameter in found)


def test_constants_are_what_they_were() -> None:
    assert projects.PROJECTS_PATH_BASE == "/api/backend/v1/projects"
    assert operations_repository.DB_VERSION == "v5"
    assert {kind.name: kind.value for kind in operations_repository.OperationType} == {
        "UPDATE_SNAPSHOT": 0,
        "CREATE_RUN": 1,
    }
    assert [str(provider) for provider in Provider] == ["aws", "azure", "gcp"]
    assert (envs.VERIFY_SSL, envs.ALLOW_SELF_SIGNED_CERTIFICATE) == (
        "NEPTUNE_VERIFY_SSL",
        "NEPTUNE_ALLOW_SELF_SIGNED_CERTIFICATE",
    )


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("RUN_ID_MAX_BYTES", "MAX_RUN_ID_LENGTH"),
        ("RUN_NAME_MAX_BYTES", "MAX_EXPERIMENT_NAME_LENGTH"),
        ("PATH_MAX_BYTES", "MAX_ATTRIBUTE_PATH_LENGTH"),
        ("STRING_MAX_BYTES", "MAX_STRING_SERIES_DATA_POINT_LENGTH"),
        ("STEP_MAX", "MAX_STEP_VALUE"),
        ("SNAPSHOT_MAX_BYTES", "MAX_SINGLE_OPERATION_SIZE_BYTES"),
        ("REQUEST_MAX_BYTES", "MAX_REQUEST_SIZE_BYTES"),
        ("STATUS_BATCH", "MAX_REQUESTS_STATUS_BATCH_SIZE"),
        ("FILE_DESTINATION_MAX", "MAX_FILE_DESTINATION_LENGTH"),
    ],
)
def test_our_limits_are_neptunes(ours: str, theirs: str) -> None:
    assert getattr(limits, ours) == getattr(parameters, theirs)


def test_histograms_and_mime_types_have_neptunes_limits() -> None:
    assert limits.HISTOGRAM_MAX_BINS + 1 == parameters.MAX_HISTOGRAM_BIN_EDGES
    assert neptune_wire.MIME_TYPE_MAX == parameters.MAX_FILE_MIME_TYPE_LENGTH


@pytest.mark.parametrize(
    ("message", "fields"),
    [
        (ingest_pb2.RunOperation, {"project": 1, "run_id": 2, "create": 6, "update_batch": 8}),
        (
            common_pb2.Run,
            {"fork_point": 2, "creation_time": 3, "family": 4, "experiment_id": 5, "inherit_configs": 9},
        ),
        (common_pb2.ForkPoint, {"parent_project": 1, "parent_run_id": 2, "step": 4}),
        (common_pb2.Step, {"whole": 1, "micro": 2}),
        (common_pb2.UpdateRunSnapshots, {"snapshots": 1}),
        (common_pb2.UpdateRunSnapshot, {"step": 1, "timestamp": 2, "assign": 4, "modify_sets": 5, "append": 8}),
        (
            common_pb2.Value,
            {
                "float64": 1,
                "int64": 3,
                "bool": 5,
                "string": 6,
                "timestamp": 8,
                "string_set": 12,
                "file_ref": 13,
                "histogram": 14,
            },
        ),
        (common_pb2.FileRef, {"path": 1, "size_bytes": 2, "mime_type": 3}),
        (common_pb2.Histogram, {"bin_edges": 1, "counts": 4, "densities": 5}),
        (common_pb2.ModifyStringSet, {"values": 1}),
        (client_pb2.SubmitResponse, {"request_ids": 2}),
        (client_pb2.BulkRequestStatus, {"statuses": 1}),
        (request_status_pb2.RequestStatus, {"code_by_count": 1}),
        (client_pb2.BulkCheckDetail, {"project": 1, "ids": 2, "next_cursor": 3}),
        (client_pb2.BulkIngestResultDetail, {"details": 1, "next_cursor": 2}),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_a_message_has_the_fields_that_we_use(message: Any, fields: dict[str, int]) -> None:
    known = {field.name: field.number for field in message.DESCRIPTOR.fields}
    assert fields.items() <= known.items()


def test_the_codes_that_we_know_are_neptunes() -> None:
    ours = known_codes() | neptune_answers.BENIGN_WHEN_REPLAYED
    assert ours <= set(IngestCode.keys())
    assert (Code.Value("OK"), Code.Value("UNAVAILABLE"), common_pb2.SET_OPERATION.Value("ADD")) == (0, 14, 1)


def test_every_code_of_a_run_or_a_project_or_the_server_has_been_thought_about() -> None:
    """All others are about single values: they are refusals."""
    single = ("FIELD_", "SERIES_", "FLOAT_", "DATETIME_", "STRING_", "FILE_", "HISTOGRAM_", "OK")
    codes = set(IngestCode.keys())
    assert {code for code in codes if not code.startswith(single)} == known_codes()


def known_codes() -> frozenset[str]:
    answers = neptune_answers
    return answers.BENIGN | answers.NOTES | answers.TRANSIENT | answers.FATAL


def test_the_safe_client_knows_what_errors_of_the_client_stand_for() -> None:
    """All but the one that the client never tells: see neptune_client.NOT_FINITE."""
    theirs = {error.__name__: IngestCode.Name(code) for code, error in CODE_TO_ERROR.items() if error}
    assert theirs.pop("GenericFloatValueNanInfUnsupported") == "FLOAT_VALUE_NAN_INF_UNSUPPORTED"
    assert theirs == neptune_client.CODES
    assert all(hasattr(exceptions, name) for name in neptune_client.TROUBLE)


def test_the_operation_log_has_the_tables_that_we_write(tmp_path: Path) -> None:
    repository = OperationsRepository(tmp_path / "log.sqlite3")
    repository.init_db()
    repository.close(cleanup_files=False)
    with sqlite3.connect(tmp_path / "log.sqlite3") as connection:
        columns = {
            table: [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
            for (table,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        }
    assert columns["metadata"] == ["id", "version", "project", "run_id"]
    assert columns["run_operations"] == [
        "sequence_id",
        "timestamp",
        "operation_type",
        "operation",
        "operation_size_bytes",
    ]
    assert columns["file_upload_requests"] == [
        "id",
        "source_path",
        "destination",
        "mime_type",
        "size_bytes",
        "is_temporary",
    ]


def test_a_connected_client_has_the_private_parts_that_we_use() -> None:
    with opened(OnlinePlace()) as place:
        client = place.connection._api.backend.get_httpx_client()
        authenticator = client.auth._authenticator
        assert isinstance(authenticator, NeptuneAuthenticator)
        assert authenticator._token.access_token
        assert client is place.connection._api.backend.get_httpx_client()
