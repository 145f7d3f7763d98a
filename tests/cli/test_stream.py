"""Commands about streams, as a person runs them on a directory."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import pytest

import hstreamlite as hs
from hstreamlite.cli.lines import READ_BYTES
from tests.cli.person import Person

CREATED = {"name": "orders", "backlog": 0.0, "max_bytes": 0, "protect": [], "shards": 1}


def test_life_of_a_stream(person: Person) -> None:
    assert person.json("stream", "create", "orders").items() >= CREATED.items()
    done = person.json("stream", "append", "orders", given=b"first\nsecond\n")
    assert (done["records"], done["first_id"], done["last_id"]) == (2, "1-1-0", "1-1-1")
    assert person.json("stream", "list")[0]["records"] == 2
    described = person.json("stream", "describe", "orders")
    assert described.items() >= {"records": 2, "tail": "1-1-1", "subscriptions": []}.items()
    assert [r["payload"] for r in person.lines("stream", "read", "orders")] == ["first", "second"]
    trimmed = person.json("stream", "trim", "orders", "--before", "1-1-1")
    assert (trimmed["trimmed"], trimmed["records"]) == (1, 1)
    assert person.json("stream", "delete", "orders") == {"name": "orders", "deleted": True}
    assert person.json("stream", "list") == []


def test_settings_of_a_new_stream_are_kept(person: Person) -> None:
    made = person.json(
        "stream", "create", "s", "-b", "1h30m", "--max-bytes", "64k", "--protect", "a",
        "--protect", "b", "--shards", "4", "-r", "3",
    )  # fmt: skip
    wanted = {"backlog": 5400.0, "max_bytes": 65536, "protect": ["a", "b"], "shards": 4}
    assert made.items() >= wanted.items()
    shards = person.json("stream", "list-shard", "s")
    assert len(shards) == 4
    assert [int(b["start"]) - int(a["end"]) for a, b in pairwise(shards)] == [
        1, 1, 1,
    ]  # fmt: skip
    assert (shards[0]["start"], shards[-1]["end"]) == ("0", str(2**128 - 1))


def test_create_makes_the_store_and_nothing_else_does(person: Person) -> None:
    for words in (("list",), ("append", "s"), ("delete", "s"), ("trim", "s", "--before", "latest")):
        assert person.fails("stream", *words) == (3, person.said)
        assert "is not a store" in person.said
        assert not person.path.exists()
    person.json("stream", "create", "s")
    assert person.path.exists()


def test_what_exists_is_left_as_it_is(person: Person) -> None:
    person.json("stream", "create", "s", "--backlog-duration", "1d")
    code, said = person.fails("stream", "create", "s")
    assert (code, said) == (
        1,
        "hstreamlite stream create: Stream 's' exists; --exists-ok leaves it as it is.",
    )
    assert person.json("stream", "create", "s", "--exists-ok")["backlog"] == 86400.0


def test_delete_of_what_is_in_use_needs_force(person: Person) -> None:
    with hs.open(person.path) as store:
        store.create_stream("s")
        store.create_subscription("sub", stream="s")
    code, said = person.fails("stream", "delete", "s")
    assert code == 1
    assert "has subscriptions ('sub'); delete them first, or pass --force" in said
    assert person.json("stream", "delete", "s", "--force")["deleted"]
    assert person.fails("stream", "delete", "s")[0] == 1
    assert not person.json("stream", "delete", "s", "--ignore-missing")["deleted"]


class TestAppend:
    def test_bytes_stay_as_they_are(self, orders: Person) -> None:
        lines = [b"", b"\xff\x00", b"cr\r", "\u00e4".encode(), b"no end"]
        orders.json("stream", "append", "orders", given=b"\n".join(lines))
        assert orders.payloads() == lines
        shown = orders.lines("stream", "read", "orders")
        assert [r["encoding"] for r in shown] == ["text", "base64", "text", "text", "text"]
        assert orders.prints("stream", "read", "orders", "--format", "raw") == b"".join(
            line + b"\n" for line in lines
        )

    @pytest.mark.parametrize("end", [b"", b"\n"])
    def test_lines_may_come_in_pieces(self, end: bytes, orders: Person) -> None:
        lines = [b"%d" % n * size for n, size in enumerate([1, 70_000, 0, 200_000, 3, READ_BYTES])]
        done = orders.json("stream", "append", "orders", given=b"\n".join(lines) + end)
        assert done["bytes"] == sum(map(len, lines)) + len(lines) - 1 + len(end)
        assert orders.payloads() == lines

    def test_keys(self, orders: Person) -> None:
        orders.json("stream", "append", "orders", "-k", "all", given=b"a\nb@c\n")
        orders.json("stream", "append", "orders", "--separator", "@", given=b"k@v@w\n@x\n")
        assert [(r.key, r.payload) for r in orders.records()] == [
            ("all", b"a"), ("all", b"b@c"), ("k", b"v@w"), (None, b"x"),
        ]  # fmt: skip
        keyed = orders.prints("stream", "read", "orders", "--format", "keyed", "--key", "k")
        assert keyed == b"k@v@w\n"

    def test_json(self, orders: Person) -> None:
        given = b'{"id": 7, "v": [1, {"a": null}]}\n\n{"id": "x"}\n'
        orders.json(
            "stream", "append", "orders", "--format", "json", "--key-field", "id", given=given
        )
        assert [(r.key, r.payload) for r in orders.records()] == [
            ("7", {"id": 7, "v": [1, {"a": None}]}),
            ("x", {"id": "x"}),
        ]

    def test_what_read_prints_is_what_append_takes(self, orders: Person, tmp_path: Path) -> None:
        with hs.open(orders.path) as store:
            store.stream("orders").append_many(
                [
                    hs.Record(b"\xfe", key="k", attributes={"a": "\u00e4\n"}),
                    hs.Record({"x": 1.5}, key="l"),
                    hs.Record(b"text\nof two lines"),
                ]
            )
        copied = orders.prints("stream", "read", "orders", "--format", "json")
        copy = Person(tmp_path / "copy", orders.out)
        copy.json("stream", "create", "orders")
        copy.json("stream", "append", "orders", "--format", "records", given=copied)
        assert [(r.payload, r.key, r.attributes) for r in copy.records()] == [
            (r.payload, r.key, r.attributes) for r in orders.records()
        ]

    @pytest.mark.parametrize(
        ("words", "line", "why"),
        [
            (("--format", "json"), b"[1]", "line 3 is no JSON object"),
            (("--format", "json"), b"[" * 100_000, "line 3 is no JSON object"),
            (("--format", "json", "--key-field", "a"), b'{"b": 1}', "line 3 has no field 'a'"),
            (("--format", "json"), b'{"a": 123456789012345678901}', "line 3 is no record"),
            (("--format", "records"), b'{"payload": 1}', "is not what its encoding 'text' says"),
            (("--format", "records"), b'{"payload": "?", "encoding": "base64"}', "line 3 is no"),
            ((), b"x" * (1 << 20), "line 3 is too long: A record of 10485"),
            (("--separator", "="), b"none", "line 3 has no separator '='"),
            (("--separator", "="), b"\xff=x", "line 3 has a key that is no UTF-8"),
        ],
    )
    def test_bad_line_ends_it_behind_those_before(
        self, words: tuple[str, ...], line: bytes, why: str, orders: Person
    ) -> None:
        good = b'{"a": "=", "payload": "x"}\n'
        given = good * 2 + line + b"\n" + good
        code, said = orders.fails("stream", "append", "orders", *words, given=given)
        assert code == 1
        assert why in said
        assert "2 records before it were appended; mend it, and go on there with --skip 2" in said
        assert len(orders.records()) == 2
        mended = good * 4
        orders.json("stream", "append", "orders", *words, "--skip", "2", given=mended)
        assert len(orders.records()) == 4

    def test_named_input_is_stored_once(self, orders: Person, tmp_path: Path) -> None:
        file = tmp_path / "lines"
        file.write_bytes(b"1\n2\n3\n")
        words = ("stream", "append", "orders", str(file), "--producer", "import")
        assert orders.json(*words)["records"] == 3
        file.write_bytes(b"1\n2\n3\n4\n")
        again = orders.json(*words)
        assert (again["records"], again["skipped"], again["last_id"]) == (1, 3, "1-4-0")
        assert orders.payloads() == [b"1", b"2", b"3", b"4"]

    def test_codec_and_level_are_used(self, orders: Person) -> None:
        words = ("--compression", "zstd", "--durability", "os", "--batch-records", "10")
        orders.json("stream", "append", "orders", *words, given=b"line\n" * 100)
        with hs.open(orders.path, read_only=True) as store:
            batches = list(store.stream("orders").read_batches())
        assert {b.compression for b in batches} == {"zstd"}
        assert {len(b) for b in batches} == {10}

    @pytest.mark.parametrize(
        "words",
        [
            ("-k", "a", "--separator", "b"),
            ("--key-field", "a"),
            ("--separator", ""),
            ("--separator", "=", "--format", "json"),
            ("nowhere.txt",),
            ("--format", "xml"),
            ("--batch-age", "soon"),
            ("--batch-age", "-1"),
            ("--batch-records", "0"),
            ("--producer", ""),
        ],
    )
    def test_wrong_options_do_nothing(self, words: tuple[str, ...], orders: Person) -> None:
        assert orders.fails("stream", "append", "orders", *words, given=b"a\n")[0] == 2
        assert orders.records() == []

    def test_nothing_is_nothing(self, orders: Person) -> None:
        done = orders.json("stream", "append", "orders", given=b"")
        assert (done["records"], done["last_id"]) == (0, None)


class TestRead:
    @pytest.fixture
    def filled(self, orders: Person) -> Person:
        orders.json("stream", "append", "orders", "-k", "a", given=b"1\n2\n3\n")
        orders.json("stream", "append", "orders", "-k", "b", given=b"4\n5\n")
        return orders

    @pytest.mark.parametrize(
        ("words", "payloads"),
        [
            ((), "12345"),
            (("--limit", "2"), "12"),
            (("-n", "0"), ""),
            (("--from", "1-1-1"), "2345"),
            (("--from", "1-1-1", "--until", "1-4-1"), "234"),
            (("--from", "latest"), ""),
            (("--from", "LATEST"), ""),
            (("--from", "1h"), "12345"),
            (("--until", "1d12h"), ""),
            (("--until", "2001-01-01"), ""),
            (("--from", "2001-01-01T00:00:00Z", "--key", "b"), "45"),
            (("--shard", "1"), "12345"),
        ],
    )
    def test_places(self, words: tuple[str, ...], payloads: str, filled: Person) -> None:
        assert "".join(r["payload"] for r in filled.lines("stream", "read", "orders", *words)) == (
            payloads
        )

    @pytest.mark.parametrize(
        ("words", "code"),
        [
            (("--from", "yesterday"), 2),
            (("--from", ""), 2),
            (("--from", "1-2"), 2),
            (("--until", "99999999999999d"), 2),
            (("--from", "9-1-0"), 2),
            (("--shard", "7"), 2),
            (("-n", "-1"), 2),
            (("--format", "xml"), 2),
        ],
    )
    def test_bad_places(self, words: tuple[str, ...], code: int, filled: Person) -> None:
        assert filled.fails("stream", "read", "orders", *words)[0] == code

    def test_record_that_is_gone_is_refused(self, filled: Person) -> None:
        filled.json("stream", "trim", "orders", "--before", "1-4-0")
        code, said = filled.fails("stream", "read", "orders", "--from", "1-1-0")
        assert code == 1
        assert "is no longer kept; the first kept one is 1-4-0" in said

    def test_facts_of_a_record(self, filled: Person) -> None:
        (record,) = filled.lines("stream", "read", "orders", "-n", "1")
        time = datetime.fromisoformat(record.pop("time"))
        assert 0 <= (datetime.now(UTC) - time).total_seconds() < 3600
        assert record == {
            "id": "1-1-0", "key": "a", "attributes": {}, "encoding": "text", "payload": "1",
        }  # fmt: skip

    def test_text_obeys_nothing(self, orders: Person) -> None:
        with hs.open(orders.path) as store:
            store.stream("orders").append("\x1b[2Jclear\u202e\n".encode() + b"\xff", key="\x07")
        line = orders.prints("stream", "read", "orders", "--format", "text").decode()
        assert line.isprintable() is False  # its own end is a control character
        assert line[:-1].isprintable()
        assert line.split("  ")[2:] == ["\\x07", "\\x1b[2Jclear\\u202e\\n\\xff\n"]

    def test_reads_beside_the_writer(self, filled: Person) -> None:
        with hs.open(filled.path) as store:
            store.stream("orders").append(b"6")
            assert len(filled.lines("stream", "read", "orders")) == 6
            assert len(filled.lines("stream", "follow", "orders", "--from", "earliest", "-n6")) == 6
            assert filled.json("stream", "list")[0]["records"] == 6
            code, said = filled.fails("stream", "append", "orders", given=b"x\n")
        assert code == 3
        assert "is open for writing in process" in said


def test_no_stream_is_1_and_no_name_is_2(orders: Person) -> None:
    for words in (["describe"], ["read"], ["follow"], ["append"], ["list-shard"], ["delete"]):
        assert orders.fails("stream", *words, "nope")[0] == 1
        assert "There is no stream 'nope'; `hstreamlite stream list` shows" in orders.said
        assert orders.fails("stream", *words)[0] == 2
        assert "Missing argument 'STREAM'" in orders.said
    for words in (["create", "1st"], ["create", "s", "-s", "0"], ["create", "s", "-r", "0"]):
        assert orders.fails("stream", *words)[0] == 2
    assert orders.fails("stream", "create", "s", "--max-bytes", "much")[0] == 2
    assert [row["name"] for row in orders.json("stream", "list")] == ["orders"]


def test_people_get_tables(orders: Person) -> None:
    for words in (["list"], ["describe", "orders"], ["list-shard", "orders"]):
        table = orders.prints("stream", *words, "--no-json").decode()
        assert "{" not in table
        assert "records" in table
    done = orders.prints("stream", "append", "orders", "--no-json", given=b"a\n").decode()
    assert done.startswith("appended 1 records, 2 bytes, to 'orders' in ")
    assert json.loads(orders.prints("stream", "list", "--json"))[0]["records"] == 1


def test_store_of_another_process_is_reached_by_a_server_in_its_place(person: Person) -> None:
    person.json("stream", "create", "orders")
    with hs.open(person.path):
        code, said = person.fails("stream", "create", "more")
    assert code == 3
    assert f"that is no server: end it; or let `hstreamlite server --store {person.path}`" in said
    assert "hs.connect" not in said
