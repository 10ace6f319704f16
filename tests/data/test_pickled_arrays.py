"""Pickled arrays: what every Python writes is read, and hostile files are refused in bounds."""

import io
import os
import pickle
import struct
import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxad.data import pickled_arrays
from jaxad.data.pickle_machine import OTHER, RefusalError, run_pickle
from jaxad.data.pickled_arrays import parse_pickled_arrays, read_pickled_arrays
from jaxad.errors import InputError

DATA = np.random.default_rng(0).integers(0, 256, (3, 3072), np.uint8)
NAMES = ("data", "labels", "filenames", "batch_label", "num_vis")
H = b"\x80\x02"  # of protocol 2


def published(data: np.ndarray = DATA, labels: tuple[int, ...] = (6, 9, 0)) -> bytes:
    """A batch as the published files have it: protocol 2 of Python 2, strings without a kind."""

    def text(value: bytes) -> bytes:
        short = len(value) < 256
        return (
            b"U" + bytes([len(value)]) if short else b"T" + struct.pack("<i", len(value))
        ) + value

    rows, columns = (b"M" + struct.pack("<H", n) for n in data.shape)
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\nq\x07cnumpy\nndarray\nq\x08K\x00\x85U\x01b\x87R"
        + b"(K\x01" + rows + columns + b"\x86"
        + b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xff"
        + b"K\x00tb\x89" + text(data.tobytes()) + b"tb"
    )  # fmt: skip
    return (
        b"\x80\x02}q\x01(" + text(b"batch_label") + text(b"training batch 1 of 5")
        + text(b"labels") + b"]q\x04(" + b"".join(b"K" + bytes([n]) for n in labels) + b"e"
        + text(b"data") + array
        + text(b"filenames") + b"]q\x0a(" + text(b"a.png") * len(labels) + b"eu."
    )  # fmt: skip


def refusal(data: bytes) -> str:
    with pytest.raises(InputError) as caught:
        parse_pickled_arrays(data, NAMES, source="batch")
    message = str(caught.value)
    assert message.startswith("batch: not read as pickled arrays: ")
    assert message.isprintable()
    assert len(message) < 300
    return message


def test_the_published_form() -> None:
    assert pickle.loads(published(), encoding="bytes")[b"labels"] == [6, 9, 0]  # the oracle
    found = parse_pickled_arrays(published(), NAMES, source="x")
    np.testing.assert_array_equal(found.pop("data"), DATA)
    assert found == {
        "batch_label": "training batch 1 of 5",
        "labels": [6, 9, 0],
        "filenames": ["a.png"] * 3,
    }


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("kind", [bytes, str])
def test_what_python_3_writes(protocol: int, kind: type) -> None:
    def text(value: str) -> Any:
        return value if kind is str else value.encode("latin-1")

    entries = {
        text("data"): DATA,
        text("labels"): [0, 300, 70_000, -5],
        text("filenames"): [text("é.png"), text("b.png")],
        text("batch_label"): text("x" * 5000) if kind is str else text("x"),
        text("num_vis"): 3072,
        text("more"): {"passed over": [None, (True,)]},
    }
    found = parse_pickled_arrays(pickle.dumps(entries, protocol), NAMES, source="x")
    np.testing.assert_array_equal(found.pop("data"), DATA)
    expected = {k if kind is str else k.decode(): v for k, v in entries.items()}
    assert found["labels"] == expected["labels"]
    assert found["filenames"] == ["é.png", "b.png"]
    assert found["num_vis"] == 3072
    assert set(found) == {"labels", "filenames", "batch_label", "num_vis"}


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_of_either_order_and_large_ones(protocol: int, order: str) -> None:
    large = np.asarray(np.arange(40_000).reshape(100, 400) % 251, np.uint8, order=order)
    found = parse_pickled_arrays(pickle.dumps({"data": large}, protocol), ("data",), source="x")
    np.testing.assert_array_equal(found["data"], large)
    assert not found["data"].flags.writeable
    empty = pickle.dumps({"data": np.zeros((0, 3072), np.uint8), "labels": []}, max(protocol, 3))
    assert parse_pickled_arrays(empty, ("data",), source="x")["data"].shape == (0, 3072)


def test_entries_of_other_names_are_passed_over() -> None:
    others = {(1, 2): 3, None: 4, 2**70: 1.5, b"x" * 5000: 6, "labels": [7]}
    for protocol in (2, 3, 4, 5):
        found = parse_pickled_arrays(pickle.dumps(others, protocol), NAMES, source="x")
        assert found == {"labels": [7]}


def test_keys_are_names_and_small_numbers() -> None:
    """Others are never hashed: nested ones recurse, large ones can be chosen to collide."""
    keys = ["a", b"b", 7, -(2**31) + 1, 2**31, (1, 2), None, 1.5, True]
    found, end = run_pickle(
        data := pickle.dumps(dict.fromkeys(keys, 0)) + b"more",
        find=pytest.fail,
        build=pytest.fail,
        max_steps=100,
        max_text=100,
    )
    assert set(found) == {"a", b"b", 7, -(2**31) + 1, OTHER}
    assert data[end:] == b"more"


def test_what_calls_are_given_is_paid_in_steps() -> None:
    """A list of 100 items takes 104 steps; each call that is handed it, 100 more."""
    calls = []

    def run(count: int) -> None:
        run_pickle(
            H + b"](" + b"K\x01" * 100 + b"eq\x00" + b"ca\nb\nh\x00\x85R" * count + b".",
            find=lambda module, name: lambda arguments: calls.append(arguments),
            build=pytest.fail,
            max_steps=1000,
            max_text=100,
        )

    run(5)
    assert len(calls) == 5
    with pytest.raises(RefusalError, match="more than 1000 steps"):
        run(50)
    assert len(calls) < 20


class Evil:
    def __init__(self, *call: Any) -> None:
        self.call = call

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("name", ["data", "other"])
def test_nothing_is_called(protocol: int, name: str, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    calls = [
        Evil(os.system, (f"touch {trace}",)),
        Evil(Path.touch, (trace,)),
        Evil(eval, (f"open({str(trace)!r}, 'w')",)),
        Evil(getattr, (os, "getcwd")),
        Evil(np.fromfile, (str(trace),)),
        Evil(bytearray, (2**40,)),
    ]
    for call in calls[:5] if protocol > 2 else calls:
        if call.call[0] is getattr:
            call.call = (getattr, (1, "real"))
        data = pickle.dumps({name: call, "labels": [1]}, protocol)
        message = refusal(data)
        assert "asks for" in message or "opcode" in message or "has protocol" in message
    assert not trace.exists()


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.zeros(3, np.int64), "type is not uint8"),
        (np.zeros((2, 2), np.float32), "type is not uint8"),
        (np.array([None]), "type is not uint8"),
        (np.zeros((1,) * 5, np.uint8), "shape does not fit"),
        ([[1], [2]], "entry 'data' is no uint8 array"),
        ([1, "a"], "entry 'data' is no uint8 array"),
        ([True], "entry 'data' is no uint8 array"),
        ({"a": 1}, "entry 'data' is no uint8 array"),
        (2**63, "entry 'data' is no uint8 array"),
        ([2**63], "entry 'data' is no uint8 array"),
        (1.5, "entry 'data' is no uint8 array"),
        ({"a"}, "entry 'data' is no uint8 array"),
    ],
)
def test_other_content(values: Any, expected: str) -> None:
    assert expected in refusal(pickle.dumps({"data": values}, 4))


BLANK = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85U\x01btR"
U1 = b"cnumpy\ndtype\nU\x02u1\x85R"


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "ends early"),
        (b"\x80\x01}.", "has protocol 1"),
        (b"\x80\x06}.", "has protocol 6"),
        (H + b"].", "it holds no dict"),
        (H + b".", "damaged at byte"),
        (H + b"}", "ends early"),
        (H + b"}" + b"\x85" * 3 + b"K\x01s.", "damaged at byte"),
        (H + b"(}(Nu.", "sets items of what is no dict"),  # a key without a value
        (H + b"(u.", "damaged at byte"),
        (H + b"}U\x04dataKu", "ends early"),
        (H + b"h\x05.", "damaged at byte"),
        (H + b"T\xff\xff\xff\xff", "ends early"),  # a length of -1
        (H + b"X\xff\xff\xff\x7fab", "ends early"),
        (b"\x80\x05\x96" + b"\xff" * 8, "ends early"),
        (H + b"X\x01\x00\x00\x00\xff.", "damaged at byte"),  # not UTF-8
        (H + b"cnumpy\n", "damaged at byte"),
        (H + b"c" + b"x" * 500 + b"\ny\n.", "asks for 'xxx"),
        (H + b"cos\nsystem\n(X\x02\x00\x00\x00idtR.", "asks for 'os.system'"),
        (H + b"cnumpy\nload\n.", "asks for 'numpy.load'"),
        (b"\x80\x04\x8c\x05numpy\x8c\x04load\x93.", "asks for 'numpy.load'"),
        (b"\x80\x04K\x01K\x02\x93.", "names a global by no text"),
        (H + b"cnumpy\nndarray\n)R.", "calls what is no function"),
        (H + b"K\x01)R.", "calls what is no function"),
        (H + b"c_codecs\nencode\n]R.", "calls what is no function"),
        (H + b"c_codecs\nencode\n)R.", "it encodes what is no latin1 text"),
        (H + b"c_codecs\nencode\nX\x01\0\0\0aX\x05\0\0\0rot13\x86R.", "it encodes what is no"),
        (H + b"}c_codecs\nencode\nX\x02\0\0\0\xc4\x80X\x06\0\0\0latin1\x86Rs.", "damaged at byte"),
        (H + b"cnumpy\ndtype\nU\x01O\x85R.", "type is not uint8"),
        (H + b"cnumpy\ndtype\n)R.", "type is not uint8"),
        (H + b"cnumpy.core.multiarray\n_reconstruct\nK\x01\x85R.", "it makes an object"),
        (H + b"}U\x04data" + BLANK + b"s.", "entry 'data' is no uint8 array"),  # never filled
        (H + b"}U\x04data" + BLANK + b"K\x01bs.", "it sets attributes"),
        (H + b"}}b.", "it sets attributes"),
        (H + BLANK + b"(K\x01K\x09\x85" + U1 + b"\x89U\x01xtb.", "shape does not fit"),
        (H + BLANK + b"(K\x01J\xff\xff\xff\xff\x85" + U1 + b"\x89U\x01xtb.", "does not fit"),
        (H + BLANK + b"(K\x01K\x01" + U1 + b"\x89U\x01xtb.", "does not fit"),
        (H + BLANK + b"(K\x01\x88\x85" + U1 + b"\x89U\x01xtb.", "does not fit"),  # a shape of True
        (H + BLANK + b"(K\x01K\x01\x85K\x01\x89U\x01xtb.", "type is not uint8"),
        (H + BLANK + b"(K\x01K\x01\x85" + U1 + b"\x89K\x01tb.", "does not fit"),
        (H + b"F1.5\n.", "opcode 0x46"),
        (H + b"NQ.", "refers to what is not in it"),
        (H + b"i", "opcode 0x69"),
        (H + b"2", "opcode 0x32"),
    ],
)
def test_hostile_bytes(data: bytes, expected: str) -> None:
    assert expected in refusal(data)


def bombs() -> dict[str, bytes]:
    """Small files that would take much time or memory."""
    once = b"}q\x00"
    text = b"X" + struct.pack("<I", 100_000) + b"a" * 100_000
    encode = b"c_codecs\nencode\nq\x01X\x06\0\0\0latin1q\x02" + text + b"q\x03"
    fold = b"h\x01h\x03h\x02\x86R"
    labels = b"]q\x01(" + b"K\x01" * 50_000 + b"e"
    many_keys = b"".join(b"U\x05" + b"%05d" % n + b"h\x01" for n in range(50_000))
    return {
        "text encoded again and again": H + once + encode + fold * 2_000 + b".",
        "numbers without end": H + b"K\x01" * 1_000_001,
        "marks": H + b"(" * 1_000_001,
        "nested tuples": H + b")" + b"\x85" * 300_000,
        "nested lists": H + b"]q\x00" + b"]q\x01h\x00ah\x01q\x00" * 60_000 + b".",
        "a nested key": H + b"})" + b"\x85" * 200_000 + b"K\x01s.",
        "a list in itself": H + b"]q\x00h\x00ah\x00h\x00e.",
        "one list under many keys": H + once + labels + b"h\x00(" + many_keys + b"u.",
        "tuples of tuples": H + b")q\x00" + b"h\x00h\x00\x86q\x00" * 100_000 + b".",
        "memo": H + b"}" + b"".join(b"r" + struct.pack("<I", n * 7919) for n in range(150_000)),
    }


@pytest.mark.parametrize("name", bombs())
def test_time_is_bounded(name: str) -> None:
    data = bombs()[name]
    start = time.process_time()
    outcome(data)
    assert time.process_time() - start < 10  # ten times what one run takes


def test_steps_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "more than 1000000 steps" in refusal(bombs()["numbers without end"] + b"}.")
    monkeypatch.setattr(pickled_arrays, "MAX_STEPS", 10)
    assert "more than 10 steps" in refusal(H + b"}" + b"N" * 9 + b"h\x00.")
    assert parse_pickled_arrays(H + b"}.", NAMES, source="batch") == {}


@pytest.mark.parametrize("name", ["text encoded again and again", "memo"])
def test_memory_is_bounded(name: str) -> None:
    data = bombs()[name]
    tracemalloc.start()
    with pytest.raises(InputError):
        parse_pickled_arrays(data, NAMES, source="batch")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < (1e6 if name.startswith("text") else 200e6)  # a step costs 100 bytes


def outcome(data: bytes) -> None:
    """Either plain data or one line, whatever the bytes."""
    try:
        found = parse_pickled_arrays(data, NAMES, source="batch")
    except InputError as error:
        found, message = {}, str(error)
    else:
        message = ""
    assert message.isprintable()
    assert len(message) < 300
    for value in found.values():
        assert type(value) in (np.ndarray, list, str, int)
        if type(value) is np.ndarray:
            assert value.dtype == np.uint8
            assert value.nbytes <= len(data)


SEEDS = [published(DATA[:, :12])] + [
    pickle.dumps({b"data": DATA[:, :12], b"labels": [1, 2, 3], "num_vis": 12}, protocol)
    for protocol in (2, 3, 4, 5)
]


@settings(max_examples=200, deadline=1000)
@given(
    st.sampled_from(SEEDS),
    st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=5),
    st.integers(0, 10_000),
)
def test_damaged_batches(seed: bytes, changes: list[tuple[int, int]], cut: int) -> None:
    data = bytearray(seed)
    for place, value in changes:
        data[place % len(data)] = value
    outcome(bytes(data[: 1 + cut % (2 * len(data))]))


WORDS = [bytes([code]) for code in b"()t}]usaeNRb.\x85\x86\x87\x88\x89\x93\x94"]
WORDS += [b"K\x01", b"K\x00", b"q\x00", b"h\x00", b"q\x01", b"h\x01", b"U\x04data", b"U\x01x"]
WORDS += [b"C\x01x", b"X\x06\0\0\0latin1", b"X\x04\0\0\0data", b"\x8c\x02u1", b"M\x00\x0c"]
WORDS += [b"cnumpy\nndarray\n", b"cnumpy\ndtype\n", b"c_codecs\nencode\n", U1, BLANK]
WORDS += [b"cnumpy._core.numeric\n_frombuffer\n", b"\x96\x01\0\0\0\0\0\0\0x", b"U\x06labels"]


@settings(max_examples=300, deadline=1000)
@given(st.lists(st.sampled_from(WORDS), max_size=30))
def test_programs_of_allowed_opcodes(words: list[bytes]) -> None:
    outcome(H + b"}q\x00" + b"".join(words) + b"h\x00.")


@settings(max_examples=200, deadline=1000)
@given(
    st.dictionaries(
        st.sampled_from(NAMES),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.binary(max_size=5),
            lambda inner: st.lists(inner, max_size=3) | st.tuples(inner, inner),
        ),
    ),
    st.integers(0, 5),
)
def test_pickles_of_anything(entries: dict[str, Any], protocol: int) -> None:
    data = pickle.dumps(entries, protocol)
    outcome(data)
    try:
        found = parse_pickled_arrays(data, NAMES, source="x")
    except InputError:
        return
    for name, value in found.items():
        expected = entries[name]
        assert value == (
            expected.decode("latin-1") if isinstance(expected, bytes) else expected
        ) or (isinstance(expected, list) and len(value) == len(expected))


def test_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "batch"
    for missing in (path, tmp_path):
        with pytest.raises(InputError, match=r"no such file: unpack"):
            read_pickled_arrays(missing, NAMES)
    path.write_bytes(published())
    assert read_pickled_arrays(path, ("labels",)) == {"labels": [6, 9, 0]}
    monkeypatch.setattr(pickled_arrays, "MAX_BYTES", 1000)
    with pytest.raises(InputError, match="more than 1000 bytes"):
        read_pickled_arrays(path, NAMES)
    with io.BytesIO(published()) as unlike:  # what the reader replaces does read it
        assert set(pickle.load(unlike, encoding="latin1")) == set(NAMES[:4])
