"""Pickles of trainers are read; nothing else is, and nothing that they name is run."""

import collections
import datetime
import decimal
import os
import pickle
import random

import numpy as np
import pytest

from jaxqa.errors import UserError
from jaxqa.serving import safe_pickle


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_what_trainers_send(protocol):
    value = {
        "images": [b"\xff\xd8\x00", b"", bytes(range(256))],
        "prompts": ["a cat", "é\n☃"],
        "flags": (True, False, None, 3, -(2**70), 1.5, float("inf")),
        "nested": [{"a": [{}]}, ()],
    }
    assert safe_pickle.loads(pickle.dumps(value, protocol)) == value


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    "array",
    [
        np.arange(6, dtype=np.uint8).reshape(2, 3),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.array(["a cat", "a dog"]),
        np.array([b"x", b"yz"]),
        np.array([True, False]),
        np.arange(3, dtype=">i4"),
        np.zeros((2, 0), np.float16),
        np.array(3.5, np.float32),
    ],
    ids=lambda array: str(array.dtype),
)
def test_arrays(array, protocol):
    found = safe_pickle.loads(pickle.dumps({"a": array, "b": [array]}, protocol))
    for back in (found["a"], found["b"][0]):
        assert back.dtype == array.dtype and back.shape == array.shape
        np.testing.assert_array_equal(back, array)


@pytest.mark.parametrize("scalar", [np.float32(0.5), np.int64(3), np.bool_(True), np.str_("x")])
def test_scalars(scalar):
    assert safe_pickle.loads(pickle.dumps([scalar])) == [scalar]


class Evil:
    def __init__(self, call, *arguments):
        self.call, self.arguments = call, arguments

    def __reduce__(self):
        return self.call, self.arguments


HOSTILE = {
    "system": pickle.dumps(Evil(os.system, "touch /tmp/jaxqa-was-here")),
    "eval": pickle.dumps(Evil(eval, "1+1")),
    "getattr": pickle.dumps(Evil(getattr, "a", "upper")),
    "import": b"cos\nsystem\n(S'true'\ntR.",
    "numpy function": pickle.dumps(Evil(np.load, "/etc/passwd")),
    "numpy testing": b"cnumpy.testing._private.utils\nrunstring\n(S'1'\n}tR.",
    "dotted": b"\x80\x04\x8c\x05numpy\x8c\x10ndarray.__class__\x93.",
    "object": pickle.dumps(collections.OrderedDict(a=1)),
    "date": pickle.dumps(datetime.date(2020, 1, 1)),
    "decimal": pickle.dumps(decimal.Decimal(1)),
    "objects in an array": pickle.dumps(np.array([{}, 1], object)),
    "records": pickle.dumps(np.zeros(2, [("a", "i4")])),
    "dates": pickle.dumps(np.zeros(2, "datetime64[s]")),
    "function": b"\x80\x04\x8c\x17numpy._core.multiarray\x94\x8c\x06scalar\x93.",
    "function with attributes": b"\x80\x04\x8c\x07_codecs\x8c\x06encode\x93}\x8c\x01a\x8c\x01bsb.",
    "function with slots": b"\x80\x04\x8c\x07_codecs\x8c\x06encode\x93N}\x8c\x01a\x8c\x01bs\x86b.",
    "class": b"\x80\x04\x8c\x05numpy\x8c\x07ndarray\x93.",
    "changed class": b"\x80\x04\x8c\x05numpy\x8c\x07ndarray\x93N}\x8c\x05value\x8c\x01bs\x86b.",
    "empty array": b"\x80\x04\x8c\x05numpy\x8c\x07ndarray\x93)R.",
    "persistent": b"\x80\x04\x8c\x01aQ.",
    "extension": b"\x82\x01.",
    "nothing": b"",
    "cut off": pickle.dumps({"images": [b"x" * 100]})[:-20],
    "huge bytes": b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.",
    "huge memo": b"\x80\x04Nr\xff\xff\xff\x7f0",
    "huge text": b"\x80\x04X\xff\xff\xff\xffab.",
    "self": b"\x80\x04]\x94h\x00a.",
    "json": b'{"images": []}',
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_pickles_are_refused(name, tmp_path):
    with pytest.raises(UserError, match="the pickle cannot be read"):
        safe_pickle.loads(HOSTILE[name])
    assert not os.path.exists("/tmp/jaxqa-was-here")
    assert safe_pickle.loads(pickle.dumps([b"x", np.arange(2)]))[0] == b"x"


def test_a_shape_that_is_not_there():
    data = pickle.dumps(np.zeros((2, 3), np.uint8), 4)
    changed = data.replace(b"K\x02K\x03\x86", b"K\xffK\xff\x86")
    assert changed != data
    with pytest.raises(UserError, match="255, 255"):
        safe_pickle.loads(changed)


def test_what_unfolds_without_end():
    value = [0]
    for _ in range(12):
        value = [value] * 50
    with pytest.raises(UserError, match="more than 100000 values"):
        safe_pickle.loads(pickle.dumps(value))
    with pytest.raises(UserError, match="deep"):
        safe_pickle.loads(b"\x80\x04" + b"]" * 5000 + b"a" * 4999 + b".")


def test_damage_is_always_a_user_error():
    source = random.Random(0)
    data = pickle.dumps({"images": [b"abc"], "prompts": np.array(["a", "b"])})
    for _ in range(3000):
        damaged = bytearray(data)
        for _ in range(source.randint(1, 6)):
            damaged[source.randrange(len(damaged))] = source.randrange(256)
        try:
            safe_pickle.loads(bytes(damaged))
        except UserError:
            pass
