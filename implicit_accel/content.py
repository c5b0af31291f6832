"""Digests of what functions compute: of traced programs, and of Python values by their content.

A stored run may be returned only if what it depends on is the same. `program_digest` covers all
that JAX traces, with every constant, whatever the Python text looks like. `content_digest` covers
what JAX cannot see into: the functions behind callbacks, and Python functions where programs of two
versions of JAX cannot be compared.
"""

from __future__ import annotations

import builtins
import dis
import enum
import functools
import hashlib
import inspect
import re
import site
import sys
import sysconfig
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.extend import core

from implicit_accel.errors import UserError

# Rules of differentiation. What they compute is in the program once it has been differentiated.
_RULES = frozenset({"jvp_jaxpr_fun", "jvp_jaxpr_thunk", "fwd_jaxpr_thunk", "bwd", "out_trees"})

_ADDRESS = re.compile(r"\bat 0x[0-9a-f]+")

_PLAIN = (type(None), bool, int, float, complex, str, bytes, type(Ellipsis), type(NotImplemented))


class UnidentifiedError(UserError):
    """A value whose content cannot be read, so that a change of it would go unnoticed."""


def program_digest(function: Callable[..., Any], *arguments: Any) -> str:
    """A digest of the program that JAX makes of a function, with all of its constants.

    Names of functions and of variables have no part in it, nor have the arguments' values, nor
    arguments that are not used. Programs that two versions of JAX make of one function may differ.

    Args:
        function: To be traced; it returns a pytree of arrays.
        *arguments: Pytrees of arrays, or of their shapes and types.

    Returns:
        Hexadecimal digits.

    Raises:
        UnidentifiedError: If the program calls back to a Python function whose content cannot be
            read.
    """
    closed, shapes = jax.make_jaxpr(function, return_shape=True)(*arguments)
    paths = jax.tree_util.tree_flatten_with_path(arguments)[0]
    labels = [jax.tree_util.keystr(path) for path, _ in paths]
    digest = hashlib.sha256(str(jax.tree.structure(shapes)).encode())
    digest.update(_settings() + _Programs().closed(closed, labels))
    return digest.hexdigest()[:16]


def traced_digest(traced: Any) -> str | None:
    """A digest of a program that ``jax.jit(…).trace`` returned, with its constants and all inputs.

    Returns:
        Hexadecimal digits; None if the program calls back to Python, or a part of it cannot be
        read: then two programs cannot be known to be the same.
    """
    programs = _Programs()
    try:
        found = programs.closed(traced.jaxpr)
    except UnidentifiedError:
        return None
    if any("callback" in name for name in programs.primitives):
        return None
    avals = [(a.str_short(), str(getattr(a, "sharding", None))) for a in traced.jaxpr.in_avals]
    return hashlib.sha256(_settings() + str(avals).encode() + found).hexdigest()


def _settings() -> bytes:
    """Settings of JAX by which one program computes other numbers."""
    flags = ("jax_threefry_partitionable", "jax_default_matmul_precision")
    return "".join(f"{flag}={getattr(jax.config, flag)}" for flag in flags).encode()


class _Programs:
    """Digests of jaxprs; one that occurs again is not walked again.

    Attributes:
        primitives: Names of all that the programs use.
    """

    def __init__(self) -> None:
        self._done: dict[
            int, tuple[Any, bytes]
        ] = {}  # with the jaxpr, so that its id stays its own
        self.primitives: set[str] = set()

    def closed(self, closed: Any, labels: list[str] | None = None) -> bytes:
        """Of a jaxpr with its constants."""
        digest = hashlib.sha256(b"closed")
        for constant in closed.consts:
            digest.update(_Content().of(constant))
        digest.update(self.open(closed.jaxpr, labels))
        return digest.digest()

    def open(self, jaxpr: Any, labels: list[str] | None = None) -> bytes:
        """Of a jaxpr without its constants.

        Args:
            jaxpr: The jaxpr.
            labels: What its inputs are called; by their numbers unless given. An input has a part
                in the digest where it is used: a further one that is not changes nothing.
        """
        if labels is None and id(jaxpr) in self._done:
            return self._done[id(jaxpr)][1]
        names: dict[Any, str] = {}
        for i, variable in enumerate(jaxpr.constvars):
            names[variable] = f"constant {i}"
        for i, variable in enumerate(jaxpr.invars):
            names[variable] = f"input {i if labels is None else labels[i]}"
        digest = hashlib.sha256(b"open")

        def atom(a: Any) -> bytes:
            if isinstance(a, core.Literal):
                return b"literal" + _aval(a.aval) + _Content().of(a.val)
            return names[a].encode() + _aval(a.aval)

        for number, equation in enumerate(jaxpr.eqns):
            self.primitives.add(equation.primitive.name)
            digest.update(equation.primitive.name.encode())
            for a in equation.invars:
                digest.update(atom(a))
            nested = any(hasattr(v, "eqns") for v in equation.params.values())
            for key in sorted(equation.params):
                # The name of a function that is called changes nothing.
                if key not in _RULES and not (key == "name" and nested):
                    digest.update(key.encode() + self._parameter(equation.params[key]))
            for i, variable in enumerate(equation.outvars):
                names[variable] = f"result {number} {i}"
        for a in jaxpr.outvars:
            digest.update(b"out" + atom(a))
        found = digest.digest()
        if labels is None:
            self._done[id(jaxpr)] = jaxpr, found
        return found

    def _parameter(self, value: Any) -> bytes:
        if hasattr(value, "consts"):  # which also has the equations of the jaxpr that it closes
            return self.closed(value)
        if hasattr(value, "eqns"):
            return self.open(value)
        if isinstance(value, tuple | list) and not hasattr(value, "_fields"):
            return b"(" + b",".join(map(self._parameter, value)) + b")"
        is_plain = isinstance(value, _PLAIN) or _is_array(value)
        # JAX's own parameters (dimension numbers, shardings) are written in full by their text.
        if not is_plain and type(value).__module__.partition(".")[0] in ("jax", "jaxlib"):
            text = repr(value)
            if not _ADDRESS.search(text):
                return text.encode()
        return _Content().of(value)


def _aval(aval: Any) -> bytes:
    return f"{aval.str_short()}{getattr(aval, 'weak_type', False)}".encode()


def content_digest(*values: Any) -> str:
    """A digest of Python values by their content.

    Of functions it covers the byte code with its constants, defaults, closures and the global names
    that are used, through helper functions, partials, methods and objects. Code of installed
    packages and of Python itself counts by its name and version.

    Raises:
        UnidentifiedError: If a value's content cannot be read (a file, a lock, a generator).
    """
    content = _Content()
    return hashlib.sha256(b"".join(map(content.of, values))).hexdigest()[:16]


class _Content:
    """Digests of values; a value that occurs again, also in itself, counts by its first place."""

    def __init__(self) -> None:
        self._seen: dict[int, int] = {}
        self._kept: list[Any] = []  # so that no id is used again

    def of(self, value: Any) -> bytes:
        digest = hashlib.sha256(self._tag(value).encode())
        for part in self._parts(value):
            digest.update(part)
        return digest.digest()

    def _tag(self, value: Any) -> str:
        kind = type(value)
        return f"{kind.__module__}.{kind.__qualname__}"

    def _parts(self, value: Any) -> list[bytes]:
        if isinstance(value, _PLAIN):
            return [repr(value).encode()]
        if id(value) in self._seen:
            return [b"seen", str(self._seen[id(value)]).encode()]
        self._seen[id(value)] = len(self._seen)
        self._kept.append(value)
        if _is_array(value):  # JAX has kinds of its own for constants
            return self._array(value)
        for kind, parts in self._KINDS:
            if isinstance(value, kind):
                found = parts(self, value)
                if kind in _CONTAINERS and type(value) not in _EXACT:
                    found.append(self.of(getattr(value, "__dict__", None)))
                return found
        return self._object(value)

    def _array(self, value: Any) -> list[bytes]:
        if isinstance(value, Tracer):
            raise UnidentifiedError("a traced value is kept beyond its function: return it instead")
        if jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
            return [str(value.dtype).encode(), self.of(np.asarray(jax.random.key_data(value)))]
        a = np.asarray(value)
        about = f"{a.dtype.str}{a.dtype}{a.shape}".encode()
        if a.dtype.hasobject:
            return [about, *map(self.of, a.ravel().tolist())]
        return [about, np.ascontiguousarray(a).tobytes()]

    def _sequence(self, value: Any) -> list[bytes]:
        return [str(len(value)).encode(), *map(self.of, value)]

    def _set(self, value: Any) -> list[bytes]:
        return sorted(_Content().of(item) for item in value)

    def _dictionary(self, value: Any) -> list[bytes]:
        return [self.of(part) for item in value.items() for part in item]

    def _code(self, code: types.CodeType) -> list[bytes]:
        about = (code.co_argcount, code.co_kwonlyargcount, code.co_posonlyargcount, code.co_flags)
        names = (code.co_names, code.co_varnames, code.co_cellvars, code.co_freevars)
        return [repr((about, names)).encode(), code.co_code, *map(self.of, code.co_consts)]

    def _function(self, function: types.FunctionType) -> list[bytes]:
        if (library := _library(function)) is not None:
            return [library]
        names = _names(function.__code__)
        cells = [_cell(cell) for cell in function.__closure__ or ()]
        held = [cells, function.__defaults__, function.__kwdefaults__, _globals(function, names)]
        modules = [*_modules(held), *_imported(function.__code__)]
        _check_readable(function, names, modules)
        parts = [function.__code__, *_without_modules(held), _attributes(modules, names)]
        return [*map(self.of, parts), self.of(vars(function))]

    def _partial(self, value: functools.partial[Any]) -> list[bytes]:
        return [*map(self.of, (value.func, value.args, value.keywords))]

    def _method(self, value: types.MethodType) -> list[bytes]:
        return [self.of(value.__func__), self.of(value.__self__)]

    def _builtin(self, value: Any) -> list[bytes]:
        own = getattr(value, "__self__", None)
        bound = [] if own is None or isinstance(own, types.ModuleType) else [self.of(own)]
        owner = getattr(value, "__objclass__", None)
        where = getattr(value, "__module__", None) or getattr(owner, "__qualname__", "")
        return [f"{where}.{value.__qualname__}".encode(), *bound]

    def _class(self, value: type) -> list[bytes]:
        if (library := _library(value)) is not None:
            return [library]
        members = {
            name: member
            for name, member in vars(value).items()
            if name not in ("__dict__", "__weakref__", "__doc__", "__module__", "__qualname__")
            and not name.startswith("_abc_")
            and not isinstance(member, types.GetSetDescriptorType | types.MemberDescriptorType)
        }
        return [value.__name__.encode(), self.of(value.__bases__), self.of(members)]

    def _module(self, value: types.ModuleType) -> list[bytes]:
        if (library := _library(value)) is not None:
            return [library]
        raise UnidentifiedError(
            f"the module {value.__name__} is kept in an object, and what is used of it cannot be "
            "read: train without folder=…, or let the function name it"
        )

    def _descriptor(self, value: Any) -> list[bytes]:
        names = ("fget", "fset", "fdel", "__func__", "func")
        return [self.of(getattr(value, name)) for name in names if hasattr(value, name)]

    def _enum(self, value: enum.Enum) -> list[bytes]:
        return [value.name.encode(), self.of(value.value)]

    def _wrapper(self, value: Any) -> list[bytes]:
        """Of what JAX and functools make of a function, it is the function that counts."""
        return [self.of(value.__wrapped__)]

    def _object(self, value: Any) -> list[bytes]:
        if hasattr(value, "__wrapped__") and _library(type(value)) is not None:
            return self._wrapper(value)
        try:
            reduced = value.__reduce_ex__(4)
        except Exception as error:  # whatever an object raises that cannot be taken apart
            raise UnidentifiedError(
                f"a {self._tag(value)} has a part in what the functions compute, and its content "
                f"cannot be read ({error}): train without folder=…, or keep it out of them"
            ) from error
        if isinstance(reduced, str):
            return [reduced.encode()]
        make, arguments, *rest = reduced
        state, items, pairs = [*rest, None, None, None][:3]
        return [
            self.of(make), self.of(arguments), self.of(state),
            self.of(None if items is None else list(items)),
            self.of(None if pairs is None else list(pairs)),
        ]  # fmt: skip

    _KINDS: tuple[tuple[Any, Callable[..., list[bytes]]], ...] = (
        (enum.Enum, _enum),
        (jax.tree_util.PyTreeDef, lambda _, value: [str(value).encode()]),
        ((tuple, list), _sequence),
        ((set, frozenset), _set),
        (dict, _dictionary),
        (types.CodeType, _code),
        (types.FunctionType, _function),
        (functools.partial, _partial),
        (types.MethodType, _method),
        ((types.BuiltinFunctionType, types.MethodWrapperType, types.WrapperDescriptorType,
          types.MethodDescriptorType, types.ClassMethodDescriptorType), _builtin),
        (type, _class),
        (types.ModuleType, _module),
        ((property, staticmethod, classmethod, functools.cached_property), _descriptor),
    )  # fmt: skip


_CONTAINERS = ((tuple, list), (set, frozenset), dict)
_EXACT = (tuple, list, set, frozenset, dict)


def _is_array(value: Any) -> bool:
    # JAX has kinds of its own for the constants of a program.
    is_jax = type(value).__module__.partition(".")[0] in ("jax", "jaxlib")
    return isinstance(value, np.ndarray | np.generic | jax.Array) or (
        is_jax and hasattr(value, "__array__") and hasattr(value, "shape")
    )


def _cell(cell: Any) -> Any:
    try:
        return (cell.cell_contents,)
    except ValueError:  # a name that is not bound yet
        return ()


def _globals(function: types.FunctionType, names: list[str]) -> list[tuple[str, Any]]:
    """The global names that a function's code may read, with their values."""
    return [
        (name, function.__globals__.get(name, "builtin"))
        for name in names
        if name in function.__globals__ or hasattr(builtins, name)
    ]


def _modules(held: list[Any]) -> list[types.ModuleType]:
    """The modules among what a function holds, but for libraries."""
    flat = (v for part in held for v in (part.values() if isinstance(part, dict) else part or ()))
    values = (v for entry in flat for v in (entry if isinstance(entry, tuple) else (entry,)))
    return [v for v in values if isinstance(v, types.ModuleType) and _library(v) is None]


def _without_modules(held: list[Any]) -> list[Any]:
    """What a function holds, with the names of modules in their places."""

    def one(value: Any) -> Any:
        is_own = isinstance(value, types.ModuleType) and _library(value) is None
        return ("module", value.__name__) if is_own else value

    def entry(value: Any) -> Any:
        return tuple(map(one, value)) if type(value) is tuple else one(value)

    return [
        {name: one(v) for name, v in part.items()} if isinstance(part, dict)
        else None if part is None else [entry(value) for value in part]
        for part in held
    ]  # fmt: skip


def _imported(code: types.CodeType) -> list[types.ModuleType]:
    """The modules that a function's code imports, but for libraries.

    Raises:
        UnidentifiedError: If one has not been imported yet.
    """
    found = []
    for instruction in dis.get_instructions(code):
        if instruction.opname != "IMPORT_NAME":
            continue
        name = str(instruction.argval)
        module = sys.modules.get(name)
        if module is not None:
            found += [module] if _library(module) is None else []
        elif name.partition(".")[0] not in sys.stdlib_module_names:
            raise UnidentifiedError(
                f"the module {name} is imported inside a function, and cannot be read before: "
                "import it at the top, or train without folder=…"
            )
    inner = (c for c in code.co_consts if isinstance(c, types.CodeType))
    return found + [module for c in inner for module in _imported(c)]


def _attributes(modules: list[types.ModuleType], names: list[str]) -> list[tuple[str, Any]]:
    """Those attributes of modules, and of modules in them, that a function's code names."""
    found: list[tuple[str, Any]] = []
    seen: set[int] = set()
    waiting = list(modules)
    while waiting:
        module = waiting.pop()
        if id(module) in seen:
            continue
        seen.add(id(module))
        for name in names:
            value = getattr(module, name, None)
            if isinstance(value, types.ModuleType) and _library(value) is None:
                waiting.append(value)
            elif hasattr(module, name):
                found.append((f"{module.__name__}.{name}", value))
    return found


# Built-in functions by which code reads what it does not name.
_BY_NAME = {"globals", "locals", "eval", "exec", "__import__", "import_module"}
_OF_MODULES = {"getattr", "vars", "__dict__", "attrgetter"}


def _check_readable(
    function: types.FunctionType, names: list[str], modules: list[types.ModuleType]
) -> None:
    unread = _BY_NAME.intersection(names)
    unread |= _OF_MODULES.intersection(names) if modules else set()
    if unread:
        raise UnidentifiedError(
            f"{function.__qualname__} uses {min(unread)}, and what it reads by it cannot be known: "
            "train without folder=…, or name what is read"
        )


def _names(code: types.CodeType) -> list[str]:
    inner = (c for c in code.co_consts if isinstance(c, types.CodeType))
    return list(dict.fromkeys([*code.co_names, *(n for c in inner for n in _names(c))]))


@functools.cache
def _library_folders() -> tuple[str, ...]:
    paths = sysconfig.get_paths()
    folders = [paths["stdlib"], paths["platstdlib"], paths["purelib"], paths["platlib"]]
    return tuple(str(Path(f).resolve()) for f in (*folders, *site.getsitepackages()))


def _library(value: Any) -> bytes | None:
    """Name and version of what belongs to Python or an installed package; None if it does not."""
    module = inspect.getmodule(value) if not isinstance(value, types.ModuleType) else value
    name = getattr(value, "__module__", None) or getattr(module, "__name__", "")
    top = str(name).partition(".")[0]
    if module is None or top in ("__main__", ""):
        return None
    if top not in sys.stdlib_module_names:
        file = getattr(module, "__file__", None)
        own = top == __name__.partition(".")[0]
        if file is None or not (own or str(Path(file).resolve()).startswith(_library_folders())):
            return None
    qualified = getattr(value, "__qualname__", "")
    if "<locals>" in qualified or "<lambda>" in qualified:
        return None  # made by a library's function, of values that may be the user's
    return f"{name}:{qualified}:{_version(top)}".encode()


def _version(top: str) -> str:
    if top in sys.stdlib_module_names:
        return ".".join(map(str, sys.version_info[:3]))
    return str(getattr(sys.modules.get(top), "__version__", ""))
