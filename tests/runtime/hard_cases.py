"""The hard cases: what people define in the script they run, and a fresh interpreter must be able to use.

Each case is the text of a script that leaves its object in ``obj``, and an expression in ``obj`` that must
give the same value in the script and in an interpreter that never saw the script.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Case:
    """One script, and how its object is used on the other side."""

    name: str
    source: str
    use: str
    torch: bool = False


def _case(name: str, use: str, source: str, *, torch: bool = False) -> Case:
    return Case(name, source.strip("\n"), use, torch)


FUNCTIONS = [
    _case("lambda", "obj(3)", "obj = lambda x: x + 1"),
    _case(
        "recursive function",
        "obj(10)",
        """
def fib(n):
    return n if n < 2 else fib(n - 1) + fib(n - 2)
obj = fib
""",
    ),
    _case(
        "closure that calls itself",
        "obj(5)",
        """
def make():
    def fact(n):
        return 1 if n == 0 else n * fact(n - 1)
    return fact
obj = make()
""",
    ),
    _case(
        "two functions that call each other",
        "obj(7), obj(8)",
        """
def even(n):
    return n == 0 or odd(n - 1)
def odd(n):
    return n != 0 and even(n - 1)
obj = even
""",
    ),
    _case(
        "function that uses module aliases",
        "obj([1, 2, 3])",
        """
import statistics as st
import os.path as osp
def f(values):
    return osp.join("a", str(st.mean(values)))
obj = f
""",
    ),
    _case(
        "global constant and helper, both after the function",
        "obj(2)",
        """
def f(x):
    return helper(x) * SCALE
def helper(x):
    return x + 1
SCALE = 10
obj = f
""",
    ),
    _case(
        "counter in a global, shared by two functions",
        "obj[0](), obj[0](), obj[1]()",
        """
count = 0
def bump():
    global count
    count += 1
    return count
def look():
    return count
obj = [bump, look]
""",
    ),
    _case(
        "captured variable, shared by two closures",
        "obj[0](), obj[0](), obj[1]()",
        """
def make():
    n = 0
    def bump():
        nonlocal n
        n += 1
        return n
    return bump, lambda: n
obj = make()
""",
    ),
    _case(
        "global that one function sets and a class reads",
        "obj[0](), obj[1][2]",
        """
def init():
    global source
    source = [5, 6, 7]
class Data:
    def __getitem__(self, i):
        return source[i]
obj = [init, Data()]
""",
    ),
    _case(
        "functools.partial of a lambda",
        "obj(1)",
        "import functools\nobj = functools.partial(lambda a, b: (a, b), b=2)",
    ),
    _case(
        "functools.wraps decorator",
        "obj(2), obj.__name__, obj.__wrapped__(2)",
        """
import functools
def twice(f):
    @functools.wraps(f)
    def wrapper(*args):
        return 2 * f(*args)
    return wrapper
@twice
def square(x):
    return x * x
obj = square
""",
    ),
    _case(
        "functools.lru_cache",
        "obj(4), obj.cache_parameters()",
        """
import functools
@functools.lru_cache(maxsize=32)
def f(x):
    return x * 3
obj = f
""",
    ),
    _case(
        "recursive functools.lru_cache",
        "obj(60)",
        """
import functools
@functools.lru_cache(None)
def fib(n):
    return n if n < 2 else fib(n - 1) + fib(n - 2)
obj = fib
""",
    ),
    _case(
        "functools.singledispatch",
        "obj(1), obj('a'), obj([1])",
        """
import functools
@functools.singledispatch
def show(x):
    return "other"
@show.register
def _(x: int):
    return "int"
@show.register(list)
def _(x):
    return "list of " + show(x[0])
obj = show
""",
    ),
    _case(
        "generator function and async function",
        "list(obj[0](3)), __import__('asyncio').run(obj[1](4))",
        """
def count(n):
    for i in range(n):
        yield i * LIMIT
async def wait(x):
    return x + LIMIT
LIMIT = 5
obj = count, wait
""",
    ),
    _case(
        "defaults, keyword-only arguments, attributes",
        "obj(1), obj(1, k=5), obj.mark",
        """
def f(a, b=[1, 2], *, k=3):
    return a, b, k
f.mark = "here"
obj = f
""",
    ),
    _case(
        "annotations: NewType, TypedDict, Protocol",
        "obj(3), sorted(obj.__annotations__)",
        """
import typing
Id = typing.NewType("Id", int)
class Row(typing.TypedDict):
    id: Id
class Reads(typing.Protocol):
    def read(self) -> Row: ...
def f(i: Id, reader: typing.Optional[Reads] = None) -> Row:
    return {"id": Id(i)}
obj = f
""",
    ),
]

CLASSES = [
    _case(
        "classes with slots",
        "obj.get(), hasattr(obj, '__dict__'), type(obj).__slots__, [hasattr(one, '__dict__') for one in obj.more]",
        """
import dataclasses
class Base:
    __slots__ = ("__private", "shown")
    def __init__(self):
        self.__private, self.shown = 1, 2
    def get(self):
        return self.__private + self.shown
class Weak:
    __slots__ = "only", "__weakref__"
@dataclasses.dataclass(slots=True)
class Data:
    a: int = 1
class Obj(Base):
    __slots__ = ("more",)
obj = Obj()
obj.more = [Weak(), Data()]
""",
    ),
    _case(
        "classes in classes and in functions",
        "obj.Inner.__qualname__, obj.made().__qualname__, repr(obj.Inner)",
        """
class Outer:
    class Inner:
        pass
    @staticmethod
    def made():
        class Made:
            pass
        return Made
obj = Outer
""",
    ),
    _case(
        "super() in a class of the script",
        "obj[3]",
        """
class Base:
    def __init__(self, n):
        self.n = n
    def __getitem__(self, i):
        return self.n + i
class Data(Base):
    def __init__(self, n):
        super().__init__(n)
    def __getitem__(self, i):
        return super().__getitem__(i) * 2
obj = Data(5)
""",
    ),
    _case(
        "__class__ and super() in a local class",
        "obj.who(), obj.up()",
        """
def make():
    class Local(dict):
        def who(self):
            return __class__.__name__
        def up(self):
            return super().get("k", 9)
    return Local()
obj = make()
""",
    ),
    _case(
        "class attributes that refer to the class",
        "type(obj).registry['a'] is type(obj), type(obj).default.x",
        """
class Node:
    registry = {}
    def __init__(self, x=1):
        self.x = x
Node.registry["a"] = Node
Node.default = Node(7)
obj = Node()
""",
    ),
    _case(
        "nested class",
        "obj.inner.v, type(obj).Inner(4).v",
        """
class Outer:
    class Inner:
        def __init__(self, v):
            self.v = v
    def __init__(self):
        self.inner = Outer.Inner(2)
obj = Outer()
""",
    ),
    _case(
        "property, staticmethod, classmethod",
        "obj.p, obj.s(2), obj.c()",
        """
class C:
    k = 4
    @property
    def p(self):
        return self.k
    @staticmethod
    def s(x):
        return x * 2
    @classmethod
    def c(cls):
        return cls.__name__, cls.k
obj = C()
""",
    ),
    _case(
        "functools.cached_property",
        "obj.p, obj.p",
        """
import functools
class C:
    calls = 0
    @functools.cached_property
    def p(self):
        C.calls += 1
        return C.calls
obj = C()
""",
    ),
    _case(
        "functools.singledispatchmethod",
        "obj.f(1), obj.f('a')",
        """
import functools
class C:
    @functools.singledispatchmethod
    def f(self, x):
        return "other"
    @f.register
    def _(self, x: int):
        return "int"
obj = C()
""",
    ),
    _case(
        "lru_cache on a method",
        "obj.f(2), obj.f(2)",
        """
import functools
class C:
    @functools.lru_cache(8)
    def f(self, x):
        return x * 2
obj = C()
""",
    ),
    _case(
        "dataclass with default factory",
        "obj, type(obj)().items, type(obj).__name__",
        """
import dataclasses
@dataclasses.dataclass
class Config:
    name: str = "a"
    items: list = dataclasses.field(default_factory=lambda: [1, 2])
obj = Config("b")
""",
    ),
    _case(
        "frozen dataclass with slots, order and ClassVar",
        "obj, obj < type(obj)(2), hash(obj) == hash(type(obj)(1)), obj.kind",
        """
import dataclasses, typing
@dataclasses.dataclass(frozen=True, slots=True, order=True)
class P:
    x: int
    tags: tuple = dataclasses.field(default=(), compare=False)
    kind: typing.ClassVar[str] = "p"
obj = P(1)
""",
    ),
    _case(
        "dataclass: replace, fields, inheritance, keyword-only",
        "__import__('dataclasses').replace(obj, b=5), [f.name for f in obj.__dataclass_fields__.values()]",
        """
import dataclasses
@dataclasses.dataclass
class A:
    a: int = 1
@dataclasses.dataclass(kw_only=True)
class B(A):
    b: int
    c: dataclasses.InitVar[int] = 0
obj = B(b=2)
""",
    ),
    _case(
        "enum with methods, and flags",
        "obj[0].name, obj[0].area(), obj[1], type(obj[0])['B'].value, obj[0] is type(obj[0]).A",
        """
import enum
class Kind(enum.Enum):
    A = 2
    B = enum.auto()
    def area(self):
        return self.value ** 2
class Bits(enum.IntFlag):
    X = enum.auto()
    Y = enum.auto()
obj = [Kind.A, Bits.X | Bits.Y]
""",
    ),
    _case(
        "enum with an alias, and attributes made by __init__",
        "obj.area, type(obj)['BIG'] is type(obj).M, type(obj).BIG.name, list(type(obj))",
        """
import enum
class Size(enum.Enum):
    S = 1, 2
    M = 3, 4
    BIG = 3, 4
    def __init__(self, width, height):
        self.area = width * height
obj = Size.S
""",
    ),
    _case(
        "collections.namedtuple",
        "obj, obj._replace(x=5), obj._asdict()",
        "import collections\nP = collections.namedtuple('P', 'x y')\nobj = P(1, 2)",
    ),
    _case(
        "typing.NamedTuple with a method",
        "obj, obj.total(), type(obj)(3)",
        """
import typing
class P(typing.NamedTuple):
    x: int
    y: int = 4
    def total(self):
        return self.x + self.y
obj = P(1)
""",
    ),
    _case(
        "abstract base class",
        "obj.f(), issubclass(int, type(obj).__mro__[1]), type(obj).__mro__[1].__abstractmethods__",
        """
import abc
class Base(abc.ABC):
    @abc.abstractmethod
    def f(self): ...
class Impl(Base):
    def f(self):
        return 8
Base.register(int)
obj = Impl()
""",
    ),
    _case(
        "descriptor, partialmethod, total_ordering, __call__",
        "obj.d, obj.both(2), obj >= type(obj)(), obj(3)",
        """
import functools
class Descriptor:
    def __set_name__(self, owner, name):
        self.name = "_" + name
    def __get__(self, instance, owner):
        return self if instance is None else getattr(instance, self.name)
    def __set__(self, instance, value):
        setattr(instance, self.name, value)
@functools.total_ordering
class C:
    d = Descriptor()
    both = functools.partialmethod(lambda self, a, b: (a, b), 1)
    def __init__(self):
        self.d = 4
    def __eq__(self, other):
        return self.d == other.d
    def __lt__(self, other):
        return self.d < other.d
    def __call__(self, x):
        return x
obj = C()
""",
    ),
    _case(
        "generic class",
        "obj.get(), type(obj).__orig_bases__[0].__args__",
        """
import typing
T = typing.TypeVar("T")
class Box(typing.Generic[T]):
    def __init__(self, v):
        self.v = v
    def get(self) -> T:
        return self.v
class IntBox(Box[int]):
    pass
obj = IntBox(3)
""",
    ),
    _case(
        "metaclass, and __init_subclass__",
        "type(type(obj)).__name__, type(obj).made, type(obj).tag, obj.v",
        """
class Meta(type):
    def __new__(mcs, name, bases, ns):
        ns.setdefault("made", name)
        return super().__new__(mcs, name, bases, ns)
class Base(metaclass=Meta):
    def __init_subclass__(cls, **kw):
        super().__init_subclass__(**kw)
        cls.tag = cls.__name__.lower()
class Impl(Base):
    v = 1
obj = Impl()
""",
    ),
    _case(
        "__slots__, __getstate__, __setstate__, __reduce__",
        "obj[0].a, obj[1].n, obj[2].n",
        """
class S:
    __slots__ = ("a", "__weakref__")
    def __init__(self):
        self.a = 1
class G:
    n = 0
    def __getstate__(self):
        return {"n": self.n - 1}
    def __setstate__(self, state):
        self.n = state["n"] + 1
class R:
    def __init__(self, n):
        self.n = n
    def __reduce__(self):
        return R, (self.n,)
obj = [S(), G(), R(1)]
""",
    ),
    _case(
        "exception class with two arguments",
        "str(obj), obj.index",
        """
class BadSample(ValueError):
    def __init__(self, index, why):
        super().__init__(index, why)
        self.index = index
obj = BadSample(3, "torn")
""",
    ),
    _case(
        "objects that refer to each other",
        "obj.child.parent is obj, obj.me() is obj",
        """
class N:
    def __init__(self):
        self.child = None
        self.me = lambda: self
a, b = N(), N()
a.child, b.parent = b, a
obj = a
""",
    ),
    _case(
        "bound method, and weak dictionary",
        "obj[0](2), len(obj[1])",
        """
import weakref
class C:
    k = 3
    def f(self, x):
        return x * self.k
c = C()
d = weakref.WeakKeyDictionary({c: 1})
obj = [c.f, d]
""",
    ),
]

SURROUNDINGS = [
    _case(
        "a lock, an open file, a running thread, a generator, 64 MB beside it",
        "obj[2]",
        """
import threading
lock = threading.Lock()
log = open("/dev/null", "w")
stop = threading.Event()
threading.Thread(target=stop.wait, daemon=True).start()
gen = (i for i in range(3))
huge = bytearray(64 << 20)
SCALE = 3
class Data:
    def __getitem__(self, i):
        return i * SCALE
obj = Data()
""",
    ),
    _case(
        "a torch model and its optimizer beside it",
        "obj[2].tolist()",
        """
import torch
model = torch.nn.Sequential(*[torch.nn.Linear(256, 256) for _ in range(20)])
optimizer = torch.optim.Adam(model.parameters())
class Data(torch.utils.data.Dataset):
    def __getitem__(self, i):
        return torch.full((2,), float(i))
    def __len__(self):
        return 4
obj = Data()
""",
        torch=True,
    ),
    _case(
        "a generic torch dataset with transform lambdas",
        "[x.tolist() for x in obj[1]]",
        """
import torch
from typing import Callable
class Data(torch.utils.data.Dataset[torch.Tensor]):
    def __init__(self, *transforms: Callable):
        super().__init__()
        self.x = torch.arange(12.0).reshape(3, 4)
        self.transforms = transforms
    def __getitem__(self, i):
        return [t(self.x[i]) for t in self.transforms]
obj = Data(lambda x: x + 1, torch.nn.Softmax(0), torch.nn.functional.relu)
""",
        torch=True,
    ),
    _case(
        "a logger, and an `if __name__` block",
        "obj[1], obj.name()",
        """
import logging
logger = logging.getLogger("train")
class Data:
    def __getitem__(self, i):
        logger.debug("item %d", i)
        return i
    def name(self):
        return logger.name, __name__
if __name__ == "__main__":
    obj = Data()
""",
    ),
    _case(
        "a module made at run time",
        "obj[0].v, obj[1](2)",
        """
import sys, types
made = types.ModuleType("made_here")
exec("class C:\\n    v = 5\\ndef f(x):\\n    return x * C.v", made.__dict__)
sys.modules["made_here"] = made
def g(x):
    return made.f(x)
obj = [made.C(), g]
""",
    ),
    _case(
        "a module loaded by path",
        "obj[0](2), obj[1].k",
        """
import importlib.util, pathlib, sys, tempfile
path = pathlib.Path(tempfile.mkdtemp(), "by_path.py")
path.write_text("K = 7\\ndef f(x):\\n    return x * K\\nclass C:\\n    k = K\\n")
spec = importlib.util.spec_from_file_location("by_path", path)
module = importlib.util.module_from_spec(spec)
sys.modules["by_path"] = module
spec.loader.exec_module(module)
path.unlink()
obj = [module.f, module.C()]
""",
    ),
]

ALL = [*FUNCTIONS, *CLASSES, *SURROUNDINGS]
