"""The error tree: what each error says, keeps, and tells of the state it leaves."""

import copy
import errno
import multiprocessing
import pickle
from concurrent.futures import ProcessPoolExecutor

import pytest

from hstreamlite import errors
from hstreamlite.errors import HStreamError

EXAMPLES: list[HStreamError] = [
    errors.HStreamError("Plain."),
    errors.StoreError("Plain."),
    errors.StoreClosed("data/"),
    errors.StoreLocked("data/", 4711),
    errors.StoreVersionUnsupported("data/SUPER", 9, 1),
    errors.StoreFailed("data/", OSError(errno.EIO, "Input/output error")),
    errors.NotAStore("data/", "it holds 'holiday.jpg'"),
    errors.StoreReplaced("data/"),
    errors.Forked("data/", 4711),
    errors.ReadOnly("data/"),
    errors.CorruptionError(
        "data/s1",
        4096,
        512,
        "0x1",
        "0x2",
        (errors.LostRecords(1, 5, 9, "orders"), errors.LostRecords(2, 5, None)),
    ),
    errors.StorageFull("data/", 1 << 20),
    errors.StorageUnavailable("data/", OSError(errno.EIO, "read segment")),
    errors.StorageUnavailable("data/", OSError(errno.EMFILE, "create segment")),
    errors.StreamNotFound("orders"),
    errors.ShardNotFound(4711, "orders"),
    errors.SubscriptionNotFound("billing"),
    errors.StreamExists("orders"),
    errors.SubscriptionExists("billing"),
    errors.StreamInUse("orders", ("a", "b", "c", "d", "e", "f", "g")),
    errors.SubscriptionInUse("billing", ("worker-1",)),
    errors.ConsumerExists("billing", "worker-1"),
    errors.RecordTooLarge(2_000_000, 1_048_576),
    errors.RecordTooLarge(2_000_000, 1_048_576, at_server=True),
    errors.BatchTooLarge(2_000_000, 1_048_576),
    errors.MalformedBatch(1, 5, 12),
    errors.TransactionTooLarge(40_000_000, 33_554_432),
    errors.RecordTrimmed("1-5-0", "1-9-0", "orders"),
    errors.UnknownPlace("1-50-0", 9),
    errors.PlaceConflict("1-50-0", "is of another shard than 2"),
    errors.BufferFull(100, 1000, "orders"),
    errors.AppendTimeout(1.5, "orders"),
    errors.ConsumerClosed("billing", "worker-1"),
    errors.ProducerClosed("orders"),
    errors.LeaseLost("billing", ("1-5-0", "1-6-0")),
    errors.PayloadMismatch("1-5-0", "Order", "items[0].qty", "int", "str 'two'"),
    errors.UnknownRecord("billing", "1-5-0"),
    errors.DuplicateAppend("importer", 12),
    errors.Fenced(3, 5),
    errors.NotOwner("10.0.0.2:6570"),
    errors.RemoteError("Plain."),
    errors.ConnectionFailed("hstream://10.0.0.2", 2.5, "connection refused"),
    errors.ConnectionLost("10.0.0.2:6570"),
    errors.ConnectionLost("10.0.0.2:6570", "none"),
    errors.LocalProtocolError("Plain."),
    errors.RemoteProtocolError("Plain."),
    errors.Unavailable("10.0.0.2:6570", "it is starting"),
    errors.Unauthenticated("it came without a token"),
    errors.PermissionDenied("billing", "append", "stream", "orders"),
    errors.LimitReached("calls_max", 4096),
    errors.BackupRefused("monday", "one of that name is there"),
    errors.SqlError("unknown column 'x'", 7),
    errors.ConnectorError("orders-sink", "the target closed the connection"),
]

each = pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)


def public_classes() -> set[type]:
    found = (getattr(errors, name) for name in errors.__all__)
    return {item for item in found if isinstance(item, type)}


def facts_of(error: HStreamError) -> dict[str, object]:
    hidden = {"_message", "_facts"}
    facts = {name: value for name, value in vars(error).items() if name not in hidden}
    return {name: (str(v) if isinstance(v, Exception) else v) for name, v in facts.items()}


def test_every_class_is_public_and_has_an_example() -> None:
    defined = {
        item
        for item in vars(errors).values()
        if isinstance(item, type) and issubclass(item, HStreamError)
    }
    assert defined == public_classes()
    assert defined == {type(error) for error in EXAMPLES}


def test_all_is_sorted_and_without_repeats() -> None:
    assert errors.__all__ == sorted(set(errors.__all__))


@each
def test_message_is_one_sentence(error: HStreamError) -> None:
    text = str(error)
    assert text.endswith(".")
    assert "\n" not in text
    assert ". " not in text


@each
def test_message_tells_every_scalar_fact(error: HStreamError) -> None:
    for name, value in facts_of(error).items():
        if name not in {"outcome", "retryable", "errno", "strerror", "filename"}:
            items = value[:5] if isinstance(value, tuple) else (value,)
            assert all(str(item) in str(error) for item in items), name


@each
def test_an_unknown_outcome_is_never_retryable(error: HStreamError) -> None:
    assert error.outcome in ("none", "unknown")
    assert not (error.retryable and error.outcome == "unknown")


@each
@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_pickling_keeps_class_message_and_facts(error: HStreamError, protocol: int) -> None:
    again = pickle.loads(pickle.dumps(error, protocol))
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert facts_of(again) == facts_of(error)
    assert (again.retryable, again.outcome) == (error.retryable, error.outcome)


@each
def test_copying_keeps_class_message_and_facts(error: HStreamError) -> None:
    again = copy.deepcopy(error)
    assert (type(again), str(again), facts_of(again)) == (type(error), str(error), facts_of(error))


@each
def test_class_documents_itself(error: HStreamError) -> None:
    assert type(error).__doc__


def test_notes_survive_pickling() -> None:
    error = errors.StreamNotFound("orders")
    error.add_note("while replaying")
    assert pickle.loads(pickle.dumps(error)).__notes__ == ["while replaying"]


def test_error_crosses_a_process_border() -> None:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        error = pool.submit(errors.StorageFull, "data/", 4096).result()
    assert (type(error), error.errno, error.needed) == (errors.StorageFull, errno.ENOSPC, 4096)


def test_storage_full_is_an_oserror_that_left_nothing_behind() -> None:
    error = errors.StorageFull("data/")
    assert isinstance(error, OSError)
    assert (error.errno, error.filename) == (errno.ENOSPC, "data/")
    assert error.strerror == str(error)
    assert error.retryable
    assert error.outcome == "none"


@pytest.mark.parametrize(
    ("cls", "builtin"),
    [
        (errors.StreamNotFound, LookupError),
        (errors.SubscriptionNotFound, LookupError),
        (errors.UnknownRecord, ValueError),
        (errors.StorageFull, OSError),
        (errors.StorageUnavailable, OSError),
    ],
)
def test_builtin_parents(cls: type, builtin: type) -> None:
    assert issubclass(cls, builtin)


@pytest.mark.parametrize(
    "cls",
    [
        errors.AppendTimeout,
        errors.ConnectorError,
        errors.Fenced,
        errors.RemoteProtocolError,
        errors.StoreFailed,
    ],
)
def test_outcome_is_unknown_where_work_was_under_way(cls: type[HStreamError]) -> None:
    assert cls.outcome == "unknown"


@pytest.mark.parametrize("number", [errno.EIO, errno.EMFILE, errno.ENFILE, errno.EFBIG])
def test_unavailable_storage_says_try_again_only_if_that_may_help(number: int) -> None:
    error = errors.StorageUnavailable("data/", OSError(number, "create segment"))
    assert ("try again" in str(error)) == error.retryable
    assert ("ulimit -f" in str(error)) == (number == errno.EFBIG)


def test_lost_connection_is_retryable_only_if_nothing_was_sent() -> None:
    assert errors.ConnectionLost("a", "none").retryable
    assert not errors.ConnectionLost("a", "unknown").retryable


def test_unknown_owner_is_not_named() -> None:
    assert "another process" in str(errors.StoreLocked("data/", 0))


def test_builtin_names_are_not_shadowed() -> None:
    import builtins

    assert not [cls.__name__ for cls in public_classes() if hasattr(builtins, cls.__name__)]
