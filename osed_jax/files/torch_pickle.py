"""What the pickle in a PyTorch file describes, without running it.

The standard library's `pickletools` cuts a pickle into its instructions. Those that plain values
and tensors need are followed here on a stack of values; every other one is refused by its name.
Nothing is imported, and a pickle can call the functions of `_CALLS` alone (PyTorch's own
`weights_only` does the same; see also the pickle module's documentation, "Restricting Globals").
"""

import pickletools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np

STORAGES: Mapping[str, np.dtype] = {
    "torch.DoubleStorage": np.dtype(np.float64),
    "torch.FloatStorage": np.dtype(np.float32),
    "torch.HalfStorage": np.dtype(np.float16),
    "torch.BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "torch.LongStorage": np.dtype(np.int64),
    "torch.IntStorage": np.dtype(np.int32),
    "torch.ShortStorage": np.dtype(np.int16),
    "torch.CharStorage": np.dtype(np.int8),
    "torch.ByteStorage": np.dtype(np.uint8),
    "torch.BoolStorage": np.dtype(np.bool_),
}
_DTYPES = {f"torch.{dtype.name}" for dtype in STORAGES.values()}
_NUMBERS = "biuf"  # kinds of NumPy's numbers
# Lightning files what its callbacks remember under their classes; only the names are kept.
_AS_NAMES = ("pytorch_lightning.callbacks.", "lightning.pytorch.callbacks.")

_LITERALS = {
    *("NONE", "NEWTRUE", "NEWFALSE", "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1"),
    *("LONG4", "FLOAT", "BINFLOAT", "STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY: Mapping[str, Callable[[], Any]] = {
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_PUTS, _GETS = {"PUT", "BINPUT", "LONG_BINPUT"}, {"GET", "BINGET", "LONG_BINGET"}
_IGNORED = {"PROTO", "FRAME", "STOP"}


class RefusedError(Exception):
    """The pickle asks for something that is not read; the message is its name."""


def read(stream: Any, storage: Callable[[tuple], np.ndarray | None]) -> Any:
    """The value that a pickle describes.

    Args:
      stream: of bytes, a file or a `mmap`; it stands at the pickle's beginning, and afterwards
        behind its end.
      storage: what PyTorch's persistent id names: a flat array, or None for "not yet", which makes
        None of its tensors.

    Returns:
      None, a number, a string, bytes, an array, or lists, tuples and dictionaries of these. Names
      of dtypes and the like are strings.

    Raises:
      RefusedError: it asks for anything else.
      ValueError, LookupError, TypeError: it is damaged.
    """
    machine = _Machine(storage)
    for opcode, argument, _ in pickletools.genops(stream):
        machine.follow(opcode.name, argument)
    return machine.result()


class _Machine:
    """The stack, what is remembered of it, and where its marks are."""

    def __init__(self, storage: Callable[[tuple], np.ndarray | None]):
        self._storage = storage
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}

    def result(self) -> Any:
        (value,) = self._stack
        return value

    def follow(self, name: str, argument: Any) -> None:
        stack = self._stack
        if name in _LITERALS:
            stack.append(_CONSTANTS.get(name, argument))
        elif name in _PUTS:
            self._memo[argument] = stack[-1]
        elif name in _GETS:
            stack.append(self._memo[argument])
        elif name in _EMPTY:
            stack.append(_EMPTY[name]())
        elif name in _TUPLES:
            stack.append(tuple(self._last(_TUPLES[name])))
        elif name not in _IGNORED:
            follow = getattr(self, f"_{name.lower()}", None)
            if follow is None:
                raise RefusedError(f"the pickle instruction {name}")
            follow(argument)

    def _last(self, count: int) -> list[Any]:
        if count > len(self._stack):
            raise IndexError("a value that is not there")
        taken = self._stack[len(self._stack) - count :]
        del self._stack[len(self._stack) - count :]
        return taken

    def _since_mark(self) -> list[Any]:
        return self._last(len(self._stack) - self._marks.pop())

    def _memoize(self, _: None) -> None:
        self._memo[len(self._memo)] = self._stack[-1]

    def _mark(self, _: None) -> None:
        self._marks.append(len(self._stack))

    def _tuple(self, _: None) -> None:
        self._stack.append(tuple(self._since_mark()))

    def _list(self, _: None) -> None:
        self._stack.append(self._since_mark())

    def _dict(self, _: None) -> None:
        items = self._since_mark()
        self._stack.append(_filled({}, items[::2], items[1::2]))

    def _append(self, _: None) -> None:
        (value,) = self._last(1)
        must_be(list, self._stack[-1]).append(value)

    def _appends(self, _: None) -> None:
        values = self._since_mark()
        must_be(list, self._stack[-1]).extend(values)

    def _setitem(self, _: None) -> None:
        key, value = self._last(2)
        _filled(self._stack[-1], [key], [value])

    def _setitems(self, _: None) -> None:
        items = self._since_mark()
        _filled(self._stack[-1], items[::2], items[1::2])

    def _global(self, module_and_name: str) -> None:
        self._stack.append(_known_name(module_and_name.replace(" ", ".")))

    def _stack_global(self, _: None) -> None:
        self._stack.append(_known_name(".".join(self._last(2))))

    def _binpersid(self, _: None) -> None:
        (identity,) = self._last(1)
        self._stack.append(self._storage(must_be(tuple, identity)))

    def _reduce(self, _: None) -> None:
        function, arguments = self._last(2)
        self._stack.append(_call(function, *must_be(tuple, arguments)))

    def _build(self, _: None) -> None:
        """Attributes: of a `state_dict` its modules' versions, of a NumPy dtype its byte order."""
        (state,) = self._last(1)
        if isinstance(self._stack[-1], np.dtype) and state[1] in ("<", "|"):
            return
        must_be(dict, self._stack[-1])


def must_be(kind: type, value: Any) -> Any:
    """The value, if it is of this kind.

    Raises:
      TypeError: it is not. The message has no value: to print nested lists can take forever.
    """
    if not isinstance(value, kind):
        raise TypeError(f"{type(value).__name__} where {kind.__name__} belongs")
    return value


def _filled(into: Any, keys: Sequence[Any], values: Sequence[Any]) -> dict:
    """Keys are single values, so that to look one up takes no longer than to read it."""
    must_be(dict, into)
    for key, value in zip(keys, values, strict=True):
        if not isinstance(key, str | int | float | bytes | None):
            raise RefusedError(f"a dictionary with {type(key).__name__} as a key")
        into[key] = value
    return into


def _known_name(name: str) -> str:
    known = any(name in names for names in (_CALLS, STORAGES, _DTYPES, _TYPES))
    if not known and not name.startswith(_AS_NAMES):
        raise RefusedError(name)
    return name


def _call(function: Any, *arguments: Any) -> Any:
    if must_be(str, function) not in _CALLS:
        raise RefusedError(f"a call of {function}")
    return _CALLS[function](*arguments)


def _tensor(
    storage: np.ndarray | None, offset: int, size: tuple, stride: tuple, *_: Any
) -> np.ndarray | None:
    """A read-only view of a storage; all counts are of elements.

    Raises:
      IndexError: it reaches beyond the storage.
    """
    if storage is None:
        return None
    if min(offset, 0, *size, *stride) < 0:
        raise IndexError(f"a tensor of {size} with offset {offset} and strides {stride}")
    reached = sum((n - 1) * step for n, step in zip(size, stride, strict=True)) + 1
    if offset + (0 if 0 in size else reached) > len(storage):
        raise IndexError(f"a tensor of {size} that reaches beyond its {len(storage)} numbers")
    steps = [step * storage.itemsize for step in stride]
    return np.lib.stride_tricks.as_strided(storage[offset:], size, steps, writeable=False)


def _first(value: Any, *_: Any) -> Any:
    return value


def _number_type(name: str, *_: Any) -> np.dtype:
    dtype = np.dtype(must_be(str, name))
    if dtype.kind not in _NUMBERS:
        raise RefusedError(f"a NumPy array of {dtype}")
    return dtype


def _number(dtype: np.dtype, value: bytes) -> float | int | bool:
    return np.frombuffer(value, dtype)[0].item()


def _bytes(text: str, *_: Any) -> bytes:
    """Bytes as protocol 2 has them; only numbers need them here."""
    if len(text) > 16:
        raise RefusedError("bytes")
    return text.encode("latin1")


_TYPES = {"torch.Tensor", "torch.nn.parameter.Parameter"}  # arguments of some of these calls
_CALLS: Mapping[str, Callable[..., Any]] = {
    "collections.OrderedDict": lambda: {},
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _first,
    "torch._utils._rebuild_parameter_with_state": _first,
    # A tensor with attributes of its own: the function that rebuilds it, type, arguments, state.
    "torch._tensor._rebuild_from_type_v2": lambda function, kind, given, state: _call(
        function, *given
    ),
    "torch.Size": lambda sizes: must_be(tuple, sizes),
    "torch.device": lambda kind, *number: must_be(str, kind),
    "numpy.dtype": _number_type,
    "numpy.core.multiarray.scalar": _number,
    "numpy._core.multiarray.scalar": _number,
    "_codecs.encode": _bytes,
}
