"""Many threads on one store: nothing lost, nothing twice, and nobody waits for ever."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from itertools import chain, count
from pathlib import Path
from typing import Literal

import pytest

import hstreamlite as hs

JOIN_SECONDS = 60


def raw(record: hs.Record) -> bytes:
    assert isinstance(record.payload, bytes)
    return record.payload


class Crew:
    """Threads whose errors fail the test."""

    def __init__(self) -> None:
        self.threads: list[threading.Thread] = []
        self.errors: list[BaseException] = []

    def start(self, run: Callable[[], object]) -> threading.Thread:
        def guarded() -> None:
            try:
                run()
            except BaseException as error:  # noqa: BLE001 - told by join
                self.errors.append(error)

        thread = threading.Thread(target=guarded, daemon=True)
        self.threads.append(thread)
        thread.start()
        return thread

    def join(self) -> None:
        for thread in self.threads:
            thread.join(JOIN_SECONDS)
            assert not thread.is_alive(), "a thread hangs"
        assert self.errors == []


@pytest.fixture
def store(tmp_path: Path) -> Iterator[hs.Store]:
    config = hs.StoreConfig(segment_bytes_min=64 << 10, retention_interval=0.05)
    with hs.open(tmp_path / "s", config=config) as store:
        yield store


def test_everything_at_once_loses_and_doubles_nothing(store: hs.Store) -> None:
    writers, each, streams = 16, 60, 4
    names = [f"stream{n}" for n in range(streams)]
    expected: dict[str, set[bytes]] = {name: set() for name in names}
    for name in names:
        store.create_stream(name)
        store.create_subscription(name, stream=name, ack_timeout=600)
        for writer in range(writers):
            numbers = range(names.index(name), each, streams)
            expected[name] |= {b"%d %d" % (writer, n) for n in numbers}
    acked: dict[str, Counter[bytes]] = {name: Counter() for name in names}
    read: dict[str, list[bytes]] = {name: [] for name in names}
    crew, writing = Crew(), Crew()
    written = threading.Event()

    def write(writer: int) -> None:
        for n in range(each):
            stream = store.stream(names[n % streams])
            if n % 3:
                stream.append(b"%d %d" % (writer, n), key=f"w{writer}")
            else:
                with store.transaction() as tx:
                    tx.append(stream.name, b"%d %d" % (writer, n), key=f"w{writer}")

    def follow(name: str) -> None:
        with store.stream(name).read(follow=True) as reader:
            for record in reader:
                read[name].append(raw(record))
                if len(read[name]) == len(expected[name]):
                    return

    lock = threading.Lock()

    def consume(name: str, number: int) -> None:
        with store.subscription(name).consumer(f"c{number}") as consumer:
            while True:
                batch = consumer.receive(7, timeout=0.02)
                consumer.ack(batch)
                with lock:
                    acked[name].update(raw(d) for d in batch)
                    if len(acked[name]) == len(expected[name]):
                        return

    def churn(number: int) -> None:
        turn = 0
        while not written.is_set():
            name = f"passing{number}-{turn}"
            stream = store.create_stream(name)
            ids = stream.append_many([b"x" * 100] * 50)
            stream.trim(before=ids[25])
            store.create_subscription(name, stream=name)
            store.delete_subscription(name)
            store.delete_stream(name)
            turn += 1

    def look() -> None:
        while not written.is_set():
            assert store.stats().streams >= streams
            store.streams()
            store.subscriptions()

    for name in names:
        crew.start(partial(follow, name))
        for number in range(2):
            crew.start(partial(consume, name, number))
    for number in range(2):
        crew.start(partial(churn, number))
    crew.start(look)
    for writer in range(writers):
        writing.start(partial(write, writer))
    writing.join()
    written.set()
    crew.join()
    for name in names:
        stored = [raw(r) for r in store.stream(name).read()]
        assert sorted(stored) == sorted(expected[name])
        assert read[name] == stored
        assert set(acked[name]) == expected[name]
        assert set(acked[name].values()) == {1}
        assert store.subscription(name).lag() == hs.Lag(0, 0)
        for writer in range(writers):
            own = [int(p.split()[1]) for p in stored if p.startswith(b"%d " % writer)]
            assert own == sorted(own), "records of one key changed their order"
    assert [info.name for info in store.streams()] == names


def repeat(call: Callable[[], object]) -> None:
    while True:
        call()


def unique() -> str:
    return f"c{next(_numbers)}"


_numbers = count()


def commit(store: hs.Store) -> None:
    with store.transaction() as tx:
        tx.append("orders", b"x")


def submit(store: hs.Store) -> None:
    producer = store.stream("orders").producer(buffer_bytes=1000)
    while True:
        producer.submit(b"x" * 100)


WAITS: dict[str, Callable[[hs.Store], object]] = {
    "append": lambda store: repeat(lambda: store.stream("orders").append(b"x")),
    "append_many": lambda store: repeat(lambda: store.stream("orders").append_many([b"x"] * 9)),
    "transaction": lambda store: repeat(lambda: commit(store)),
    "receive": lambda store: store.subscription("s").consumer(unique()).receive(),
    "iterate": lambda store: list(store.subscription("s").consumer(unique())),
    "follow": lambda store: list(store.stream("quiet").read(follow=True)),
    "follow batches": lambda store: list(store.stream("quiet").read_batches(follow=True)),
    "submit": submit,
    "create": lambda store: repeat(lambda: store.create_stream(f"t{unique()}")),
}


@pytest.mark.parametrize("wait", WAITS)
def test_close_ends_sixteen_waiting_threads(store: hs.Store, wait: str) -> None:
    store.create_stream("orders")
    store.create_stream("quiet")
    store.create_subscription("s", stream="quiet")
    begun = threading.Barrier(17)
    ended: list[BaseException] = []
    crew = Crew()

    def run() -> None:
        begun.wait(JOIN_SECONDS)
        try:
            WAITS[wait](store)
        except hs.StoreClosed as error:
            ended.append(error)

    for _ in range(16):
        crew.start(run)
    begun.wait(JOIN_SECONDS)
    if wait in ("receive", "iterate"):
        while len(store.subscription("s").info().consumers) < 16:
            pass
    store.close()
    crew.join()
    assert len(ended) == 16
    with hs.open(store.path) as again:
        assert again.recovery.clean


def overwrite(payloads: list[bytes]) -> None:
    """Empty the list and use the memory for something else."""
    payloads.clear()
    assert [b"%d" % n * 100 for n in range(100)]


def test_a_list_emptied_while_its_append_waits_for_room_is_appended_as_it_was(
    tmp_path: Path,
) -> None:
    config = hs.StoreConfig(
        chunk_bytes=64 << 10, stage_bytes=256 << 10, frame_bytes=32 << 10, eager_bytes=16 << 10
    )
    with hs.open(tmp_path / "s", durability="memory", config=config) as store:
        stream = store.create_stream("s")
        for round_number in range(40):
            mine = [b"%d/%d" % (round_number, n) * 50 for n in range(100)]
            shared = [bytes(bytearray(payload)) for payload in mine]
            crew = Crew()
            for _ in range(2):
                crew.start(lambda: [stream.append_many([bytes(1000)] * 200) for _ in range(4)])
            crew.start(partial(stream.append_many, shared))
            crew.start(partial(overwrite, shared))
            crew.join()
            store.sync()  # what is not durable is not read, and not trimmed
            found = [raw(r) for r in stream.read() if raw(r) != bytes(1000)]
            assert found in ([], mine)
            stream.trim(before=hs.LATEST)


def test_close_from_many_threads_closes_once(store: hs.Store) -> None:
    store.create_stream("orders").append(b"x")
    crew = Crew()
    for _ in range(16):
        crew.start(store.close)
    crew.join()
    with hs.open(store.path) as again:
        assert again.recovery.clean
        assert len(list(again.stream("orders").read())) == 1


@pytest.mark.parametrize("how", ["__iter__", "__next__"])
def test_closing_a_reader_wakes_the_thread_that_waits_in_it(store: hs.Store, how: str) -> None:
    stream = store.create_stream("orders")
    stream.append(b"first")
    reader = stream.read(follow=True)
    seen = threading.Event()
    crew = Crew()

    def run() -> None:
        for _ in iter(reader) if how == "__iter__" else iter(lambda: next(reader, None), None):
            seen.set()

    crew.start(run)
    assert seen.wait(JOIN_SECONDS)
    reader.close()
    crew.join()
    stream.append(b"second")


def test_closing_a_consumer_wakes_the_thread_that_waits_in_it(store: hs.Store) -> None:
    stream = store.create_stream("orders")
    stream.append(b"first")
    consumer = store.create_subscription("s", stream="orders").consumer("c")
    seen, found = threading.Event(), []
    crew = Crew()

    def run() -> None:
        for delivery in consumer:
            delivery.ack()
            seen.set()
        with pytest.raises(hs.ConsumerClosed) as caught:
            consumer.receive()
        found.append(caught.value)

    crew.start(run)
    assert seen.wait(JOIN_SECONDS)
    consumer.close()
    crew.join()
    assert len(found) == 1
    assert store.subscription("s").info().consumers == ()


def test_deleting_a_subscription_ends_who_waits_for_it(store: hs.Store) -> None:
    store.create_stream("orders")
    subscription = store.create_subscription("s", stream="orders")
    ended: list[str] = []
    crew = Crew()

    def run(number: int) -> None:
        with subscription.consumer(f"c{number}") as consumer:
            try:
                consumer.receive()
            except hs.SubscriptionNotFound as error:
                ended.append(error.subscription)

    for number in range(8):
        crew.start(partial(run, number))
    while len(subscription.info().consumers) < 8:
        pass
    store.delete_subscription("s", force=True)
    crew.join()
    assert ended == ["s"] * 8


@pytest.mark.parametrize("name", [None, "named"])
def test_one_producer_serves_many_threads(store: hs.Store, name: str | None) -> None:
    stream = store.create_stream("orders")
    crew = Crew()
    submitted: dict[int, list[hs.Submitted]] = {}
    with stream.producer(name=name, buffer_bytes=20_000, batch_records=50) as producer:

        def run(number: int) -> None:
            submitted[number] = [
                producer.submit(b"%d %d" % (number, n), key=f"t{number}") for n in range(300)
            ]

        for number in range(8):
            crew.start(partial(run, number))
        crew.join()
    stored = {record.id: raw(record) for record in stream.read()}
    assert len(stored) == 8 * 300
    for number, found in submitted.items():
        ids = [pending.result() for pending in found]
        assert [stored[i] for i in ids] == [b"%d %d" % (number, n) for n in range(300)]
        assert ids == sorted(ids)


def test_each_thread_may_have_a_producer_of_its_own(store: hs.Store) -> None:
    store.create_stream("orders")
    crew = Crew()

    def run(number: int) -> None:
        with store.stream("orders").producer(name=f"p{number}") as producer:
            for n in range(200):
                producer.submit(b"%d %d" % (number, n))

    for number in range(8):
        crew.start(partial(run, number))
    crew.join()
    stored = Counter(raw(record) for record in store.stream("orders").read())
    assert stored == Counter(b"%d %d" % (number, n) for number in range(8) for n in range(200))


def test_deliveries_are_acked_by_other_threads_while_one_receives(store: hs.Store) -> None:
    stream = store.create_stream("orders")
    stream.append_many([b"%d" % n for n in range(2000)])
    subscription = store.create_subscription("s", stream="orders", max_unacked=50)
    crew = Crew()
    seen: Counter[bytes] = Counter()
    with subscription.consumer("c") as consumer:

        def ack(deliveries: list[hs.Delivery]) -> None:
            for delivery in deliveries:
                delivery.ack()

        while seen.total() < 2000:
            batch = consumer.receive(25)
            seen.update(raw(d) for d in batch)
            assert len(batch) <= 50
            crew.start(partial(ack, list(batch)))
        crew.join()
        assert set(seen.values()) == {1}
        assert subscription.lag() == hs.Lag(0, 0)


def open_files(path: str) -> list[str]:
    found = []
    for entry in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):
            found.append(str(entry.readlink()))
    return [name for name in found if name.startswith(path)]


def our_threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name.startswith("hstreamlite")}


def test_close_gives_back_every_thread_and_file(tmp_path: Path) -> None:
    before = our_threads()  # that of remote stores, which other tests used, is kept for the next
    store = hs.open(tmp_path / "s")
    stream = store.create_stream("orders")
    for _ in range(20):
        stream.append_many([bytes(10_000)] * 5, durability="os")
    store.sync()
    reader, batches = stream.read(), stream.read_batches()
    next(reader), next(batches)
    consumer = store.create_subscription("s", stream="orders").consumer("c")
    assert len(consumer.receive()) > 0
    assert len(open_files(store.path)) > 1
    store.close()
    assert open_files(store.path) == []
    assert our_threads() <= before
    with hs.open(store.path) as again:
        assert sum(1 for _ in again.stream("orders").read()) == 100


def test_regrouping_under_readers_and_writers_changes_nothing(tmp_path: Path) -> None:
    config = hs.StoreConfig(
        segment_bytes_min=64 << 10,
        segment_bytes_max=256 << 10,
        retention_interval=0.05,
        regroup_after=0.0,
        regroup_bytes=64 << 10,
    )
    rounds, each = 40, 20
    crew = Crew()
    done = threading.Event()
    with hs.open(tmp_path / "s", config=config) as store:
        streams = [store.create_stream(f"stream{n}") for n in range(4)]

        def payload(number: int) -> bytes:
            return b"%d:" % number + b"." * 500

        def write(stream: hs.Stream) -> None:
            for first in range(0, rounds * each, each):
                stream.append_many([payload(n) for n in range(first, first + each)])

        def read(stream: hs.Stream) -> None:
            while not done.is_set():
                found = [raw(record) for record in stream.read()]
                assert found == [payload(n) for n in range(len(found))]

        def compact() -> None:
            while not done.is_set():
                store.compact()

        writers = [crew.start(partial(write, stream)) for stream in streams]
        for stream in streams:
            crew.start(partial(read, stream))
        crew.start(compact)
        for writer in writers:
            writer.join(JOIN_SECONDS)
        done.set()
        crew.join()
        store._engine.journal.check_invariants()
        assert store.stats().log["segments_regrouped"] > 1
        store.compact()
    with hs.open(tmp_path / "s", config=config) as store:
        for stream in [store.stream(f"stream{n}") for n in range(4)]:
            assert [raw(r) for r in stream.read()] == [payload(n) for n in range(rounds * each)]


def compact_until_closed(store: hs.Store, begun: threading.Event) -> None:
    begun.set()
    with pytest.raises(hs.StoreClosed):
        while True:
            store.compact()


def test_close_ends_a_regrouping_and_leaves_no_file_of_it(tmp_path: Path) -> None:
    config = hs.StoreConfig(segment_bytes_min=64 << 10, segment_bytes_max=64 << 10)
    for _ in range(5):
        crew = Crew()
        with hs.open(tmp_path / "s", config=config) as store:
            streams = [store.create_stream(f"stream{n}", exists_ok=True) for n in range(3)]
            for _ in range(40):
                for stream in streams:
                    stream.append(bytes(3000), durability="memory")
            begun = threading.Event()

            crew.start(partial(compact_until_closed, store, begun))
            begun.wait()
        crew.join()
        assert open_files(str(tmp_path)) == []
        assert not (tmp_path / "s" / "segments" / "regroup").exists()
    with hs.open(tmp_path / "s", config=config) as store:
        assert sum(info.records for info in store.streams()) == 5 * 40 * 3


@pytest.mark.parametrize("level", ["os", "memory"])
def test_record_that_nobody_waits_for_becomes_durable(
    tmp_path: Path, level: Literal["os", "memory"]
) -> None:
    with hs.open(tmp_path / "s", config=hs.StoreConfig(idle_mark=0.01)) as store:
        stream = store.create_stream("orders")
        journal = store._engine.journal
        frames = journal.stats()["frames"]
        stream.append(b"first", durability=level)
        store.sync()
        crew = Crew()

        def run() -> None:
            while journal.stats()["frames"] < frames + 2:
                pass  # until the idle mark behind the first: then the writer thread sleeps for good
            stream.append(b"x", durability=level)
            while journal.durable() < journal.staged():
                pass

        crew.start(run)
        crew.join()


def test_a_stream_deleted_while_others_use_it_is_not_found_and_nothing_else(
    store: hs.Store,
) -> None:
    over = threading.Event()
    uses: list[Callable[[], object]] = [
        lambda: store.stream("a").append(b"x", key="k"),
        lambda: store.stream("a").append_many([b"x", b"y"], compression="gzip"),
        lambda: list(store.stream("a").read(key="k")),
    ]

    def use(call: Callable[[], object]) -> None:
        while not over.is_set():
            with suppress(hs.StreamNotFound):
                call()

    crew = Crew()
    for call in uses:
        crew.start(partial(use, call))
    try:
        for _ in range(50):
            store.create_stream("a")
            store.delete_stream("a")
    finally:
        over.set()
    crew.join()


def test_lists_are_written_whole_however_busy_the_writers_are(tmp_path: Path) -> None:
    """A list is copied beside the writers, which must not take its frame before the end."""
    config = hs.StoreConfig(
        stage_bytes=64 << 20, frame_bytes=16 << 20, batch_bytes_max=8 << 20, linger=0.0
    )
    lists = [[bytes([number]) * 16_384] * (1, 480)[number % 2] for number in range(40)]
    with hs.open(tmp_path / "s", durability="memory", config=config) as store:
        stream = store.create_stream("a")
        for first, second in zip(lists[::2], lists[1::2], strict=True):
            stream.append_many(first)  # a writer wakes for it, long before the second is copied
            stream.append_many(second)
            store.sync()
    with hs.open(tmp_path / "s") as store:
        found = map(raw, store.stream("a").read())
        stored = chain.from_iterable(lists)
        assert all(one == other for one, other in zip(found, stored, strict=True))
