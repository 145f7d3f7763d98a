"""Every call of every service says what it needs, so that a new one cannot be forgotten."""

import importlib
from pathlib import Path

import pytest
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor

import hstreamlite.net
from hstreamlite.net.access.needs import CALLS, Call

HERE = Path(hstreamlite.net.__file__).parent


def services() -> dict[str, ServiceDescriptor]:
    modules = (
        importlib.import_module(f"hstreamlite.net.{path.stem}")
        for path in sorted(HERE.glob("*_pb2.py"))
    )
    return {
        service.full_name: service
        for module in modules
        for service in module.DESCRIPTOR.services_by_name.values()
    }


METHODS = [
    pytest.param(method, id=f"{name}/{method.name}")
    for name, service in services().items()
    for method in service.methods
]


def test_every_call_has_an_entry_and_every_entry_a_call() -> None:
    for name, service in services().items():
        assert set(CALLS[name]) == {method.name for method in service.methods}, name


@pytest.mark.parametrize("method", METHODS)
def test_the_fields_of_a_need_are_there(method: MethodDescriptor) -> None:
    call = CALLS[method.containing_service.full_name][method.name]
    for need in call.needs:
        if need.source is not None:
            field = method.input_type
            *above, last = need.field.split(".")
            for name in above:
                field = field.fields_by_name[name].message_type
                assert field is not None
            found = field.fields_by_name[last]
            assert found.cpp_type == (
                found.CPPTYPE_UINT64 if need.source == "shard" else found.CPPTYPE_STRING
            )
    if call.shown is not None:
        _, entries, name = call.shown
        found = method.output_type.fields_by_name[entries]
        assert found.is_repeated
        entry = found.message_type
        assert name in entry.fields_by_name if entry is not None else not name
        assert list(method.output_type.fields_by_name) == [entries]


NAMING = {
    "streamName",
    "stream",
    "subscription",
    "subscriptionId",
    "shardId",
    "readerId",
    "dead_letter",
}
NOT_NAMING = {
    # The reader ids of these are made up by their callers, and name nothing.
    "ReadShardStream": {"readerId"},
    "ReadStream": {"readerId"},
    "ReadSingleShardStream": {"readerId"},
    "ReadStreamByKey": {"readerId"},
    "CreateShardReader": {"readerId"},
    # Answered the same for all.
    "LookupShard": {"shardId"},
    "LookupShardReader": {"readerId"},
    "LookupSubscription": {"subscriptionId"},
    # Figures of all streams are for those who may see figures.
    "PerStreamTimeSeriesStats": {"streamName"},
}


@pytest.mark.parametrize("method", METHODS)
def test_what_a_request_names_is_looked_at(method: MethodDescriptor) -> None:
    call: Call = CALLS[method.containing_service.full_name][method.name]
    looked_at = {need.field for need in call.needs}
    named = {field.name for field in method.input_type.fields} & NAMING
    assert named - looked_at <= NOT_NAMING.get(method.name, set())
