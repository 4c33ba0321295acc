"""The docstrings of the standard library and of scientific packages as documents: the quickstart's corpus."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from revector.errors import SourceError
from revector.interfaces import Document

MIN_CHARACTERS = 40
"""Shorter docstrings ("Return the hash.") say too little to be found by."""

_ASIDES = re.compile(r"\n(Examples|References|See Also)\n-{3,}\n.*?(?=\n[A-Z][\w ]+\n-{3,}\n|\Z)", re.DOTALL)
"""Numpydoc sections of printed sessions, citations and neighbours: a quarter of the text, and not about the object."""

MODULES = {
    "python": """builtins argparse array asyncio atexit base64 binascii bisect bz2 calendar cmath collections
        collections.abc concurrent.futures configparser contextlib contextvars copy csv dataclasses datetime
        decimal difflib email.utils enum filecmp fileinput fnmatch fractions functools gc getpass glob graphlib
        gzip hashlib heapq hmac html html.parser http.client importlib importlib.metadata inspect io ipaddress
        itertools json logging lzma math mimetypes multiprocessing operator os os.path pathlib pickle platform
        pprint queue random re sched secrets shelve shlex shutil signal socket sqlite3 statistics string struct
        subprocess sys tarfile tempfile textwrap threading time timeit tomllib traceback tracemalloc unicodedata
        unittest unittest.mock urllib.parse urllib.request uuid warnings weakref webbrowser xml.etree.ElementTree
        zipfile zlib zoneinfo""",
    "numpy": "numpy numpy.linalg",
    "pandas": "pandas",
    "scipy": "scipy.linalg scipy.optimize scipy.spatial.distance",
    "h5py": "h5py",
    "sqlalchemy": "sqlalchemy sqlalchemy.orm",
}
"""The public modules of each package, in the order in which a name exported twice is given its id."""

CLASSES = {
    "numpy": "numpy.ndarray",
    "pandas": "pandas.DataFrame pandas.Series.str pandas.Series.dt",
    "scipy": "",
    "sqlalchemy": """sqlalchemy.Engine sqlalchemy.Connection sqlalchemy.CursorResult sqlalchemy.Select
        sqlalchemy.Column sqlalchemy.MetaData sqlalchemy.orm.Session""",
}
"""The classes whose methods are collected, for packages that have too many; elsewhere every public class counts."""


class _Found(NamedTuple):
    name: str
    module: str
    kind: str
    item: Any


class DocstringSource:
    """Public modules, classes, functions and methods that explain themselves, one document each.

    The id is the public dotted name (``pathlib.Path.rename``); the text is the call signature without types, then the
    docstring. Inherited and repeated docstrings count once. Order and content depend only on the versions installed.
    Raises ``SourceError`` for a package that is not in ``MODULES``, or is not installed.
    """

    def __init__(self, packages: Sequence[str] | None = None) -> None:
        self.packages = tuple(MODULES if packages is None else packages)
        self.name = f"docstrings of {', '.join(self.packages)}"
        if unknown := [package for package in self.packages if package not in MODULES]:
            raise SourceError(
                f"docstrings of {', '.join(unknown)} were asked for; known packages are {', '.join(MODULES)}. "
                "Nothing was read; choose from these."
            )

    def __iter__(self) -> Iterator[Document]:
        """Import the modules of one package after the other and yield their documents."""
        seen: set[object] = set()
        for package in self.packages:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                documents = list(_documents(package, seen))
            yield from documents


def _documents(package: str, seen: set[object]) -> Iterator[Document]:
    for name, module, kind, item in _public(package):
        doc = _ASIDES.sub("", inspect.cleandoc(item.__doc__)).strip() if isinstance(item.__doc__, str) else ""
        known = id(item) in seen or name in seen or doc in seen
        seen |= {id(item), name, doc}
        if not known and len(doc) >= MIN_CHARACTERS:
            short = name.rpartition(".")[2]
            text = doc if doc.startswith(f"{short}(") else f"{name}{_signature(item)}\n\n{doc}"
            yield Document(
                name,
                text,
                {"package": package, "module": module, "kind": kind, "name": short},
            )


def _public(package: str) -> Iterator[_Found]:
    """Yield modules, then their functions and classes, then the methods of the chosen classes."""
    classes: dict[str, _Found] = {}
    for module in MODULES[package].split():
        try:
            home = importlib.import_module(module)
        except ImportError as error:
            raise SourceError(
                f"docstrings of {package} were asked for, but {module} cannot be imported ({error}). "
                "Documents of earlier packages may have been read; install it or leave it out."
            ) from error
        yield _Found(module, module, "module", home)
        for name in sorted(getattr(home, "__all__", None) or vars(home)):
            item = getattr(home, name, None)
            public = not name.startswith("_") and ("__all__" in vars(home) or _same_top(item, home))
            # test runners and shells put their own functions in the place of sys.displayhook and its like
            if not public or not callable(item) or name.endswith("hook"):
                continue
            found = _Found(
                f"{module}.{name}",
                module,
                "class" if inspect.isclass(item) else "function",
                item,
            )
            yield found
            if found.kind == "class":
                classes.setdefault(found.name, found)
    chosen = list(classes.values())
    if package in CLASSES:
        chosen = [_Found(name, package, "class", pkgutil.resolve_name(name)) for name in CLASSES[package].split()]
    walked = {id(found.item) for found in chosen}
    for found in sorted(chosen, key=lambda found: len(inspect.getmro(found.item))):
        yield from _methods(found, walked)


def _methods(found: _Found, walked: set[int]) -> Iterator[_Found]:
    """Yield a class's methods and properties, with those of bases that are not walked themselves."""
    for base in inspect.getmro(found.item):
        if base is not found.item and (id(base) in walked or not _same_top(base, found.item)):
            continue
        for name, raw in sorted(vars(base).items()):
            item = getattr(raw, "__func__", raw)
            if not name.startswith("_") and (callable(item) or inspect.isdatadescriptor(item)):
                kind = "method" if callable(item) else "property"
                yield _Found(f"{found.name}.{name}", found.module, kind, item)


def _same_top(item: object, other: object) -> bool:
    return _top(item) == _top(other)


def _top(item: object) -> str:
    """Return the top-level module of ``item``; what ``_bisect`` holds is ``bisect``'s, in C."""
    home = getattr(item, "__module__", None) or getattr(item, "__name__", "")
    return str(home).lstrip("_").split(".")[0]


def _signature(item: Any) -> str:
    """Return ``(a, b=1, *, c=...)``; empty where Python knows none. Defaults that print an address become ``...``."""
    try:
        signature = inspect.signature(item)
    except (TypeError, ValueError):
        return ""
    plain = (int, float, str, bytes, type(None), type)
    parameters = [
        p.replace(
            annotation=p.empty,
            default=p.default if isinstance(p.default, plain) else ...,
        )
        for p in signature.parameters.values()
    ]
    return str(inspect.Signature(parameters)).replace("=Ellipsis", "=...")
