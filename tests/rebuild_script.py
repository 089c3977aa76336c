"""A main script: each case uses what the script defines, and runs in another process, which cannot import the script.

``python rebuild_script.py`` prints, as JSON, why a case failed, or null, by its name.
"""

from __future__ import annotations

import abc
import asyncio
import collections
import concurrent.futures
import contextvars
import dataclasses
import enum
import functools
import json
import logging
import multiprocessing
import pickle
import queue
import re
import subprocess
import sys
import threading
import typing
import weakref
from collections.abc import Callable
from typing import Any, ClassVar, Generic, NamedTuple, NewType, ParamSpec, Protocol, TypedDict, TypeVar

import fastapi
import flask
import jinja2
import msgspec
import pydantic
from flask import request
from starlette.testclient import TestClient

from servekit.targets import pack_target

CASES: dict[str, Callable[[], Any]] = {}


def case(function: Callable[[], Any]) -> Callable[[], Any]:
    CASES[function.__name__] = function
    return function


# -- functools -------------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=3, typed=True)
def doubled(number: int) -> int:
    return number * 2


@functools.cache
def counted(number: int) -> int:
    return counted(number - 1) + 1 if number else 0


@case
def caches() -> bool:
    info = doubled.cache_parameters()
    return doubled(2) == 4 and doubled.__name__ == "doubled" and info == {"maxsize": 3, "typed": True}


@case
def a_cache_that_calls_itself() -> bool:
    return counted(5) == 5 and counted.cache_info().currsize == 6


class Cached:
    calls = 0

    @functools.cached_property
    def once(self) -> int:
        self.calls += 1
        return self.calls

    @functools.cache  # noqa: B019
    def method(self) -> int:
        self.calls += 1
        return self.calls

    @classmethod
    @functools.cache
    def of_class(cls) -> Any:
        return cls


@case
def cached_properties_and_methods() -> bool:
    cached = Cached()
    return cached.once == cached.once == 1 and cached.method() == cached.method() == 2 and Cached.of_class() is Cached


class Thing: ...


@functools.singledispatch
def kind(value: Any) -> str:
    return "any"


@kind.register(int)
def _(value: int) -> str:
    return "int"


@kind.register(Thing)
def _(value: Thing) -> str:
    return "thing"


class Kinds:
    @functools.singledispatchmethod
    def kind(self, value: Any) -> str:
        return "any"

    @kind.register(int)
    def _(self, value: int) -> str:
        return "int"

    def add(self, one: int, two: int) -> int:
        return one + two

    add_one = functools.partialmethod(add, 1)


kind(Thing())  # Its cache has an entry.
added = functools.partial(Kinds().add, 1)


@case
def single_dispatch() -> bool:
    kinds = [kind(1), kind(""), kind(Thing()), Kinds().kind(1), Kinds().kind("")]
    return kinds == ["int", "any", "thing", "int", "any"]


@case
def partials() -> bool:
    return Kinds().add_one(2) == added(2) == 3


# -- typing ----------------------------------------------------------------------------------------------------------

UserId = NewType("UserId", int)
P = ParamSpec("P")
T = TypeVar("T")


def wrapped(function: Callable[P, T]) -> Callable[P, T]:
    @functools.wraps(function)
    def inner(*args: P.args, **kwargs: P.kwargs) -> T:
        return function(*args, **kwargs)

    return inner


def user(given: UserId) -> UserId:
    return given


class Box(Generic[T]):
    def __init__(self, value: T) -> None:
        self.value = value


@typing.runtime_checkable
class Runs(Protocol):
    def run(self) -> int: ...


class Runner:
    def run(self) -> int:
        return 1


class Point(NamedTuple):
    x: int
    y: int = 2


class Movie(TypedDict, total=False):
    name: str


@case
def new_types() -> bool:
    return UserId(3) == 3 and UserId.__supertype__ is int and typing.get_type_hints(user)["given"] is UserId


@case
def typing_of_all_kinds() -> bool:
    assert wrapped(lambda: 3)() == 3
    assert Box[int](3).value == 3
    assert P.__name__ == "P"
    assert isinstance(Runner(), Runs)
    assert not isinstance(3, Runs)
    assert Point(1)._replace(x=3) == (3, 2)
    return msgspec.json.decode(b'{"name": "a"}', type=Movie) == Movie(name="a")


# -- context variables, and what modules hold under a name -----------------------------------------------------------

user_name = contextvars.ContextVar("user_name", default="nobody")
unset: contextvars.ContextVar[int] = contextvars.ContextVar("unset")
user_name.set("the script's own")
nothing = object()
log = logging.getLogger("own")


class Named:
    name = user_name


@case
def context_variables() -> bool:
    user_name.set("me")
    return Named.name.get() == "me" and contextvars.Context().run(user_name.get) == "nobody" and not unset.get(0)


@case
def sentinels() -> bool:
    fields = {field.name: field for field in dataclasses.fields(Slotted)}
    return fields["one"].default is dataclasses.MISSING and (lambda given=nothing: given is nothing)()


@case
def the_request_of_flask() -> bool:
    with application.test_request_context("/?a=1"):
        return request.args["a"] == "1"


@case
def loggers() -> bool:
    return log is logging.getLogger("own")


# -- msgspec ---------------------------------------------------------------------------------------------------------


class Shape(msgspec.Struct, kw_only=True, frozen=True, tag="shape", tag_field="kind", rename="camel"):
    side_length: int
    names: list[str] = msgspec.field(default_factory=list)
    colour: str = msgspec.field(default="red", name="color")
    made: ClassVar[int] = 5

    def area(self) -> int:
        return self.side_length**2

    @property
    def label(self) -> str:
        return f"{self.colour} {self.side_length}"

    @classmethod
    def unit(cls) -> Shape:
        return cls(side_length=1)


class Node(msgspec.Struct, weakref=True, dict=True):
    number: int
    children: list[Node] = []
    other: Node | None = msgspec.field(default_factory=lambda: Node(0) if False else None)

    def who(self) -> str:
        return "node"

    def __post_init__(self) -> None:
        if self.number < 0:
            raise ValueError("negative")


class Leaf(Node, tag=True, omit_defaults=True):
    size: int = 2

    def who(self) -> str:
        return super().who() + " and leaf"


class Pair(msgspec.Struct, Generic[T], array_like=True, order=True):
    first: T
    second: T


decoder = msgspec.json.Decoder(Shape, strict=False)
encoder = msgspec.msgpack.Encoder(enc_hook=str)
leaf = Leaf(1, size=3)


class Bounded(msgspec.Struct):
    count: typing.Annotated[int, msgspec.Meta(ge=1, description="how many")]


def bounded(count: typing.Annotated[int, msgspec.Meta(ge=1)]) -> int:
    return count


@case
def constraints() -> bool:
    meta = typing.get_type_hints(bounded, include_extras=True)["count"].__metadata__[0]
    assert meta == msgspec.Meta(ge=1)
    for count in (1, 0):
        try:
            msgspec.convert({"count": count}, Bounded)
        except msgspec.ValidationError:
            return count == 0
    return False


@dataclasses.dataclass
class Decoded:
    count: int = 1


class DecodedDict(TypedDict):
    count: int


msgspec.json.decode(b"{}", type=Decoded)
msgspec.json.decode(b'{"count": 1}', type=DecodedDict)


@case
def classes_that_msgspec_has_decoded() -> bool:
    found = msgspec.json.decode(b'{"count": 2}', type=DecodedDict)
    return msgspec.json.decode(b'{"count": 2}', type=Decoded) == Decoded(2) and found == {"count": 2}


@case
def structs() -> bool:
    shape = decoder.decode(b'{"kind": "shape", "sideLength": "2"}')
    assert shape == Shape(side_length=2)
    assert shape.area() == 4
    assert shape.label == "red 2"
    assert Shape.made == 5
    assert json.loads(msgspec.json.encode(Shape.unit())) == {
        "kind": "shape", "sideLength": 1, "names": [], "color": "red"
    }  # fmt: skip
    assert Shape.unit().names is not Shape.unit().names
    for wrong in (lambda: Shape(1), lambda: setattr(shape, "colour", "blue")):
        try:
            wrong()
        except (TypeError, AttributeError):
            continue
        return False
    return encoder.encode(Thing)[-2:] == b"'>"


@case
def structs_that_inherit() -> bool:
    assert isinstance(leaf, Node)
    assert type(leaf) is Leaf
    assert (leaf.size, leaf.who()) == (3, "node and leaf")
    assert msgspec.json.encode(Leaf(1)) == b'{"type":"Leaf","number":1,"other":null}'
    assert msgspec.json.decode(b'{"number": 1, "children": [{"number": 2}]}', type=Node).children == [Node(2)]
    assert weakref.ref(leaf)() is leaf
    leaf.own = 3
    try:
        Leaf(-1)
    except ValueError:
        return True
    return False


@case
def structs_that_are_generic() -> bool:
    return msgspec.json.decode(b"[1, 2]", type=Pair[int]) == Pair(1, 2) < Pair(2, 1)


# -- enums, dataclasses, abstract classes ----------------------------------------------------------------------------


class Planet(enum.Enum):
    EARTH = (5.9, 6.3)
    HOME = (5.9, 6.3)
    MARS = (0.6, 3.4)

    def __init__(self, mass: float, radius: float) -> None:
        self.mass, self.radius = mass, radius


class Rights(enum.IntFlag):
    READ = enum.auto()
    WRITE = enum.auto()


class Colour(str, enum.Enum):
    RED = "red"

    @classmethod
    def _missing_(cls, value: object) -> Colour:
        return cls.RED


@case
def enums() -> bool:
    assert Planet.MARS.radius == 3.4
    assert Planet.HOME is Planet.EARTH
    assert Planet["HOME"] is Planet.EARTH
    assert len(Planet) == 2
    assert Rights(3) == Rights.READ | Rights.WRITE
    assert Colour("no") is Colour.RED
    return Planet((0.6, 3.4)) is Planet.MARS


@dataclasses.dataclass(slots=True, frozen=True)
class Slotted:
    one: int
    two: list[Thing] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(order=True)
class Counted:
    number: int
    lock: Any = dataclasses.field(default_factory=threading.Lock, compare=False)
    start: dataclasses.InitVar[int] = 3

    def __post_init__(self, start: int) -> None:
        self.number += start


shared = Counted(1)


class Animal(abc.ABC):
    @abc.abstractmethod
    def sound(self) -> str: ...


@Animal.register
class Robot: ...


@case
def data_classes() -> bool:
    with shared.lock:
        return shared.number == 4 and Counted(1) < Counted(2)


@case
def text_in_annotations_is_resolved() -> bool:
    return msgspec.json.decode(b'{"one": 1, "two": []}', type=Slotted) == Slotted(1)


@case
def abstract_classes() -> bool:
    try:
        Animal()  # type: ignore[abstract]
    except TypeError:
        return isinstance(Robot(), Animal)
    return False


class Pydantic(pydantic.BaseModel):
    number: int = pydantic.Field(gt=0)
    planet: Planet = Planet.MARS


@pydantic.validate_call
def checked(number: int) -> int:
    return number


unpicklable = threading.current_thread()


@case
def pydantic_checks_of_calls() -> bool:
    return checked("3") == 3  # type: ignore[arg-type]


@case
def pydantic_models() -> bool:
    return Pydantic(number="3") == Pydantic(number=3) and Pydantic(number=1).planet is Planet.MARS


# -- threads, queues and pools ---------------------------------------------------------------------------------------

lock, again, event, condition = threading.Lock(), threading.RLock(), threading.Event(), threading.Condition()
semaphore, barrier = threading.BoundedSemaphore(2), threading.Barrier(1)
event.set()
per_thread = threading.local()
per_thread.own = 1
jobs: queue.Queue[int] = queue.Queue(5)
jobs.put(1)
simple: queue.SimpleQueue[int] = queue.SimpleQueue()
threads = concurrent.futures.ThreadPoolExecutor(2)
threads.submit(int).result()
processes = concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("fork"))
later = asyncio.Lock()


@case
def locks() -> bool:
    with lock, again, condition, semaphore:
        condition.notify_all()
        return lock.locked() and event.is_set() and barrier.wait() == 0


@case
def locks_are_shared_as_they_were() -> bool:
    return jobs.mutex is jobs.not_empty._lock  # type: ignore[attr-defined]


@case
def values_of_threads() -> bool:
    return not hasattr(per_thread, "own")


@case
def queues() -> bool:
    simple.put(2)
    return (jobs.get(), jobs.maxsize, simple.get()) == (1, 5, 2)


@case
def pools() -> bool:
    with processes:
        return threads.submit(doubled, 2).result() == 4 and processes.submit(abs, -1).result() == 1


@case
def async_locks() -> bool:
    async def hold() -> bool:
        async with later:
            return later.locked()

    return asyncio.run(hold())


# -- weak references -------------------------------------------------------------------------------------------------

thing = Thing()
reference, proxy = weakref.ref(thing), weakref.proxy(thing)
by_name = weakref.WeakValueDictionary({"thing": thing})
by_thing = weakref.WeakKeyDictionary({thing: "thing"})
several = weakref.WeakSet([thing])
gone, gone_proxies = weakref.ref(Thing()), [weakref.proxy(Thing())]
runner = Runner()
method = weakref.WeakMethod(runner.run)


@case
def weak_references() -> bool:
    thing.own = 5
    assert reference() is thing
    assert proxy.own == 5
    assert by_name["thing"] is thing
    assert by_thing[thing] == "thing"
    assert thing in several
    assert gone() is None
    assert method()() == runner.run()
    try:
        return bool(gone_proxies[0].own)
    except ReferenceError:
        return True


# -- objects with a __getattr__, templates and the rest --------------------------------------------------------------


class Lazy:
    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


lazy = Lazy()
lazy.inner = [1, 1]
template = jinja2.Environment().from_string("hello {{ name }}")
pattern = re.compile("a(b)")
defaults: Any = collections.defaultdict(lambda: 3)


@case
def attributes_that_are_looked_up() -> bool:
    return lazy.count(1) == 2


@case
def templates_and_patterns() -> bool:
    return template.render(name="you") == "hello you" and pattern.sub("", "ab") == "" and defaults[1] == 3


# -- applications ----------------------------------------------------------------------------------------------------

application = flask.Flask(__name__)


@application.get("/dict")
def as_dict() -> dict[str, int]:
    return {"number": doubled(2)}


@application.get("/jsonify")
def as_jsonify() -> flask.Response:
    return flask.jsonify(name=flask.current_app.name, path=request.path)


@application.get("/template")
def as_template() -> str:
    return flask.render_template_string("{{ request.path }}")


with application.app_context():
    flask.render_template_string("")  # Its environment of templates is there.


def make_global_application() -> flask.Flask:
    return application


def make_fastapi() -> fastapi.FastAPI:
    made = fastapi.FastAPI()

    @made.post("/")
    async def post(model: Pydantic) -> dict[str, int]:
        return {"number": model.number}

    return made


def answers(made: flask.Flask) -> bool:
    client = made.test_client()
    assert client.get("/dict").get_json() == {"number": 4}
    assert client.get("/jsonify").get_json() == {"name": made.name, "path": "/jsonify"}
    return client.get("/template").text == "/template"


@case
def flask_application() -> bool:
    return answers(application) and application.json._app == application


@case
def flask_factory_of_a_global_application() -> bool:
    return answers(make_global_application())


@case
def fastapi_factory() -> bool:
    return TestClient(make_fastapi()).post("/", json={"number": 3}).json() == {"number": 3}


CHECK = """
import json, pickle, sys, traceback
from servekit.replica.target import load

def failure(packed):
    if isinstance(packed, str):
        return packed
    try:
        return None if load(packed).target() is True else "it did not return True"
    except BaseException:
        return traceback.format_exc()

print(json.dumps({name: failure(packed) for name, packed in pickle.load(sys.stdin.buffer).items()}))
"""


def main() -> None:
    packed = pickle.dumps({name: _packed(function) for name, function in CASES.items()})
    child = subprocess.run([sys.executable, "-c", CHECK], input=packed, stdout=subprocess.PIPE, check=True)
    sys.stdout.buffer.write(child.stdout)


def _packed(function: Callable[[], Any]) -> bytes | str:
    try:
        return pack_target(function, (), None).data
    except Exception as error:
        return str(error)


if __name__ == "__main__":
    main()
