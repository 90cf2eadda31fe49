from __future__ import annotations

import pickle

import pytest
from ray import cloudpickle

from ingest import errors
from ingest.errors import IngestError, TransientError, mask_secrets

# Append-only: handlers, records under DEST and users' scripts rely on these words.
KINDS = {
    "IngestError": "error",
    "ConfigError": "config",
    "CredentialsError": "credentials",
    "EmptySelectionError": "empty-selection",
    "NoColumnError": "unknown-column",
    "UnfitError": "unfit",
    "DiskFullError": "disk-full",
    "IncompleteError": "incomplete",
    "VersionMismatchError": "version-mismatch",
    "SourceError": "source",
    "SourceChangedError": "source-changed",
    "NoFileError": "no-such-file",
    "AbsentError": "absent",
    "NoMatrixError": "no-matrix",
    "NotCountsError": "not-counts",
    "LabelsError": "labels",
    "HostileFileError": "hostile-file",
    "TransientError": "transient",
    "CorruptError": "corrupt",
    "ExhaustedError": "out-of-memory",
    "ConflictError": "conflict",
    "AlreadyExistsError": "already-exists",
    "PreconditionError": "precondition",
    "ForeignPlanError": "foreign-plan",
    "NotFoundError": "not-found",
}
TREE = [getattr(errors, name) for name in errors.__all__ if isinstance(getattr(errors, name), type)]


def test_kinds_are_the_table_and_unique():
    assert {cls.__name__: cls.default_kind for cls in TREE} == KINDS
    assert len(set(KINDS.values())) == len(KINDS)


@pytest.mark.parametrize("cls", TREE)
@pytest.mark.parametrize("module", [pickle, cloudpickle])
def test_every_error_pickles_with_all_its_fields(cls, module):
    extra = {"retry_after_s": 2.5} if cls is TransientError else {}
    error = cls("what, where", kind="a-rule", hint="do this", source="s3://b/a.h5ad", chunk=7, key="k", **extra)
    again = module.loads(module.dumps(error))
    assert type(again) is cls
    assert vars(again) == vars(error)
    assert str(again) == "what, where"
    assert again.args == ("what, where",)


def test_lookup_error_is_kept_for_not_found():
    assert issubclass(errors.NotFoundError, LookupError)
    assert issubclass(errors.NoFileError, FileNotFoundError)
    assert issubclass(errors.NoMatrixError, ValueError)
    assert issubclass(errors.AbsentError, KeyError)
    assert issubclass(errors.UnfitError, ValueError)
    assert issubclass(errors.LabelsError, ValueError)
    assert issubclass(errors.NoColumnError, KeyError)
    assert errors.ConfigError.exit_code == errors.CredentialsError.exit_code == 2
    assert errors.SourceError.exit_code == errors.DiskFullError.exit_code == 1


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("https://me:secret@host/x", "https://***@host/x"),
        ("s3://AKIA:secret@bucket/x and gs://b/y", "s3://***@bucket/x and gs://b/y"),
        ("https://h/x?X-Amz-Signature=abc&a=1", "https://h/x?X-Amz-Signature=***&a=1"),
        ("https://h/x?x-goog-signature=abc", "https://h/x?x-goog-signature=***"),
        ("https://h/x?sv=1&sig=a%2Bb", "https://h/x?sv=1&sig=***"),
        ("https://h/x?X-Amz-Security-Token=abc'", "https://h/x?X-Amz-Security-Token=***'"),
        (
            "https://h/upload/b/o?uploadType=resumable&upload_id=A-b_c",
            "https://h/upload/b/o?uploadType=resumable&upload_id=***",
        ),
        ("s3://bucket/key@v2/x.h5ad", "s3://bucket/key@v2/x.h5ad"),
        ("design=4 signature is fine", "design=4 signature is fine"),
    ],
)
def test_secrets_are_masked(text, masked):
    assert mask_secrets(text) == masked


def test_no_secret_reaches_a_field():
    url = "https://me:pw@host/x?Signature=abc"
    error = IngestError(url, hint=url, source=url)
    assert "pw" not in repr(vars(error))
    assert "abc" not in repr(vars(error))


def test_a_message_is_one_line():
    assert IngestError("a\n  b\tc", hint="d\r\ne").message == "a b c"
    assert IngestError("x", hint="d\r\ne").hint == "d e"
