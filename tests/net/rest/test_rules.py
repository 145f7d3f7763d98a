"""HTTP rules: what of them is read, and how paths match."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import given, strategies as st

from hstreamlite.net import hstream_pb2 as pb
from hstreamlite.net.rest.rules import Template, field_at, rules_of

SERVICE = pb.DESCRIPTOR.services_by_name["HStreamApi"]


def test_every_call_has_a_rule() -> None:
    assert {rule.rpc.name for rule in rules_of(SERVICE)} == {rpc.name for rpc in SERVICE.methods}


def test_no_two_rules_share_method_and_path() -> None:
    seen = [(rule.method, rule.template.pattern.pattern) for rule in rules_of(SERVICE)]
    assert len(set(seen)) == len(seen)


@given(st.text(min_size=1))
def test_a_variable_holds_any_text(text: str) -> None:
    template = Template.parse("/v1/lookup/keys/{key}")
    path = "/v1/lookup/keys/" + quote(text, safe="", errors="surrogatepass")
    try:
        text.encode()
    except UnicodeEncodeError:
        with pytest.raises(ValueError, match="no UTF-8"):
            template.match(path)
    else:
        assert template.match(path) == {"key": text}


def test_a_variable_is_one_segment() -> None:
    template = Template.parse("/v1/streams/{name}")
    assert template.match("/v1/streams/a/b") is None
    assert template.match("/v1/streams/") is None
    assert template.match("/v1/streams/a%2Fb") == {"name": "a/b"}


def test_verbs_come_before_names() -> None:
    templates = [Template.parse("/v1/s/{id}"), Template.parse("/v1/s/{id}:exists")]
    assert min(templates, key=lambda each: each.rank) is templates[1]


@pytest.mark.parametrize("text", ["v1/streams", "/v1/{a=**}", "/v1/*", "/v1/{", "/v1/{1}"])
def test_other_templates_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no path"):
        Template.parse(text)


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("nope", "there is no 'nope'; its fields are"),
        ("trimPoint.nope", "there is no"),
        ("streamName.x", "no single message"),
    ],
)
def test_a_path_to_no_field_says_so(path: str, why: str) -> None:
    with pytest.raises(ValueError, match=why.replace("; its", " in .*; its")):
        field_at(pb.TrimStreamRequest.DESCRIPTOR, path)
