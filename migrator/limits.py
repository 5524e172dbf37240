"""Limits imposed from outside, with unit, owner and source. Our own tuning numbers are where they are used."""

PROJECT_NAME_MIN, PROJECT_NAME_MAX = 3, 128  # Neptune: characters of a project name (docs of app 3.20251215)
RUN_ID_MAX_BYTES = 730  # Neptune: UTF-8 bytes of sys/custom_run_id (neptune_scale.api.validation)
RUN_NAME_MAX_BYTES = 730  # Neptune: UTF-8 bytes of an experiment name (neptune_scale.api.run)
PATH_MAX_BYTES = 1024  # Neptune: UTF-8 bytes of one attribute path (neptune_scale.sync.parameters)
STRING_MAX_BYTES = 1024 * 1024  # Neptune: UTF-8 bytes of a string value or point (neptune_scale.sync.parameters)
HISTOGRAM_MAX_BINS = 512  # Neptune: 513 bin edges (neptune_scale.sync.parameters)
STEP_MAX = 10**12  # Neptune: steps are below this (SERIES_STEP_TOO_LARGE in Neptune's protobuf files)
INT_MIN, INT_MAX = -(2**63), 2**63 - 1  # Neptune: int64 values
FLOAT_EXACT_INT = 2**53  # IEEE 754: integers up to here are exact as doubles
SNAPSHOT_MAX_BYTES = 2 * 1024 * 1024  # Neptune: one UpdateRunSnapshot (neptune_scale.sync.parameters)
REQUEST_MAX_BYTES = 16 * 1024 * 1024  # Neptune: one RunOperation (neptune_scale.sync.parameters)
STATUS_BATCH = 1000  # Neptune: request ids in one status check (neptune_scale.sync.parameters)
FILE_DESTINATION_MAX = 800  # Neptune: characters of a stored file's path (neptune_scale.sync.parameters)
DATETIME_MIN_YEAR, DATETIME_MAX_YEAR = 1900, 2299  # Neptune: DATETIME_VALUE_OUT_OF_RANGE in its protobuf files
WANDB_PAGE_STEPS_MAX = 2**31 - 1  # W&B: history page sizes are GraphQL Int, 32 bit
