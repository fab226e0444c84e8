"""Whether a generator moved is noticed, whichever it is and however little; and its state can be put back."""

from __future__ import annotations

import pickle
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

from safeloader.runtime.child import generators
from safeloader.runtime.child.generators import Generators
from safeloader.runtime.child.states import Advanced, States, in_full

MOVES: dict[str, Callable[[], Any]] = {
    "torch.rand": lambda: torch.rand(1),
    "torch.randn": lambda: torch.randn(1),
    "torch.randperm": lambda: torch.randperm(3),
    "torch.manual_seed": lambda: torch.manual_seed(99),
    "random.random": random.random,
    "random.gauss": lambda: random.gauss(0, 1),
    "random.shuffle": lambda: random.shuffle([1, 2, 3]),
    "random.getrandbits": lambda: random.getrandbits(1),
    "random.seed": lambda: random.seed(99),
    "np.random.rand": np.random.rand,
    "np.random.randn": np.random.randn,
    "np.random.permutation": lambda: np.random.permutation(3),
    "np.random.seed": lambda: np.random.seed(99),
    "np.random.bytes": lambda: np.random.bytes(1),
}

STILL: dict[str, Callable[[], Any]] = {
    "nothing": lambda: None,
    "a generator of one's own": lambda: (
        np.random.default_rng(1).random(), random.Random(1).random(), torch.rand(1, generator=torch.Generator())
    ),
    "reading the states": lambda: (np.random.get_state(), random.getstate(), torch.get_rng_state()),
}  # fmt: skip


@pytest.fixture(autouse=True)
def _put_back() -> Iterator[None]:
    """Known states before, the old ones after."""
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()
    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)
    yield
    torch.set_rng_state(before[0])
    random.setstate(before[1])
    np.random.set_state(before[2])


@pytest.fixture(params=["fast", "no python", "no numpy", "no gauss", "no torch", "slow"])
def watch(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Generators:
    """Compares words where they lie in memory, or whole states where one of them cannot be read."""
    if request.param in ("no python", "slow"):
        monkeypatch.setattr(generators, "python_words", lambda instance: None)
    if request.param in ("no numpy", "slow"):
        monkeypatch.setattr(generators, "numpy_words", lambda bits: None)
    if request.param == "no gauss":
        monkeypatch.setattr(generators, "numpy_gauss", lambda source: None)
    if request.param == "no torch":
        monkeypatch.setattr(generators, "torch_parts", lambda state: None)
    return Generators()


def _draws() -> list[Any]:
    return [
        torch.rand(3).tolist(), torch.randn(1).item(), random.random(), random.gauss(0, 1), np.random.rand(),
        np.random.randn(),
    ]  # fmt: skip


@pytest.mark.parametrize("move", MOVES.values(), ids=MOVES.keys())
def test_every_move_is_noticed_once(watch: Generators, move: Callable[[], Any]) -> None:
    assert watch.moved() is None
    move()
    states = watch.moved()
    assert states is not None
    expected = _draws()
    watch.restore(states)
    assert _draws() == expected


@pytest.mark.parametrize("move", MOVES.values(), ids=MOVES.keys())
def test_after_a_move_all_is_still_again_or_told_again(watch: Generators, move: Callable[[], Any]) -> None:
    """numpy keeps the second half of a pair of normals outside its words: where it cannot be read, states are always
    told while there is one."""
    move()
    watch.moved()
    seen = watch._numpy_words is not None and watch._numpy_half is not None
    assert (watch.moved() is None) is (seen or not np.random.get_state()[3])


@pytest.mark.parametrize("act", STILL.values(), ids=STILL.keys())
def test_what_leaves_the_global_generators_alone_is_no_move(watch: Generators, act: Callable[[], Any]) -> None:
    act()
    assert watch.moved() is None


@pytest.mark.parametrize("half", [lambda: random.gauss(0, 1), np.random.randn], ids=["random.gauss", "np.random.randn"])
def test_taking_the_second_half_of_a_pair_of_normals_is_a_move(watch: Generators, half: Callable[[], Any]) -> None:
    half()
    first = watch.moved()
    assert first is not None
    expected = half()  # moves no word of the twister
    second = watch.moved()
    assert second is not None
    third = half()
    watch.restore(first)
    assert [half(), half()] == [expected, third]
    watch.restore(second)
    assert half() == third


def test_states_survive_a_pickle_and_another_process() -> None:
    watch = Generators()
    _draws()
    states = in_full(watch.moved())
    code = (
        "import pickle, sys, torch, random, numpy as np\n"
        "from safeloader.runtime.child.generators import Generators, States\n"
        "Generators().restore(States(*pickle.load(sys.stdin.buffer)))\n"
        "print([torch.rand(3).tolist(), torch.randn(1).item(), random.random(), random.gauss(0, 1), np.random.rand(),"
        " np.random.randn()])"
    )
    said = subprocess.run(
        [sys.executable, "-c", code],
        input=pickle.dumps(tuple(states or ())),
        capture_output=True,
        check=True,
        timeout=100,
    )
    assert said.stdout.decode().strip() == str(_draws())


def test_restoring_marks_so_that_nothing_moved(watch: Generators) -> None:
    states = watch.capture()
    _draws()
    watch.restore(states)
    assert np.random.get_state()[3] == 0
    assert watch.moved() is None
    assert watch.capture()[1] == states.python


def test_the_fast_way_is_taken_where_it_is_possible() -> None:
    watch = Generators()
    assert watch._python_words is not None
    assert watch._numpy_words is not None
    assert watch._numpy_half is not None
    random.random()
    assert type(watch.moved()) is Advanced


MANY: dict[str, Callable[[int], Any]] = {
    "torch.rand": torch.rand,
    "torch.randn": lambda count: torch.randn(min(count, 9)),  # of few, the second half of a pair is kept
    "torch.randint": lambda count: torch.randint(9, (count,)),
    "torch.randperm": torch.randperm,
    "torch.bernoulli": lambda count: torch.empty(count).bernoulli_(),
    "random.random": lambda count: [random.random() for _ in range(count)],
    "random.getrandbits": lambda count: random.getrandbits(32 * count),
    "random.gauss": lambda count: [random.gauss(0, 1) for _ in range(count)],
    "random.shuffle": lambda count: random.shuffle([*range(count)]),
    "np.random.rand": np.random.rand,
    "np.random.randn": np.random.randn,
    "np.random.bytes": np.random.bytes,
    "np.random.permutation": np.random.permutation,
    "np.random.standard_gamma": lambda count: np.random.standard_gamma(2.0, count),
}


def _exactly(states: States) -> tuple[Any, ...]:
    kept = {**states.numpy, "state": {**states.numpy["state"], "key": states.numpy["state"]["key"].tolist()}}
    return states.torch, states.python, kept


@pytest.mark.parametrize("draw", MANY.values(), ids=MANY.keys())
def test_what_is_told_is_the_state_itself_however_much_was_drawn(draw: Callable[[int], Any]) -> None:
    watch = Generators()
    told: States | Advanced = watch.now()
    for count in (1, 1, 2, 3, 311, 312, 313, 623, 624, 625, 1249, 5000, 1, 30_000, 1):
        draw(count)
        told = watch.moved() or told  # a permutation of one draws nothing
        assert _exactly(in_full(told)) == _exactly(watch.capture()), count  # type: ignore[arg-type]


def test_what_is_told_is_the_state_itself_whatever_was_drawn_and_seeded(watch: Generators) -> None:
    order = random.Random(5)
    draws, told = [*MANY.values()], watch.now()
    for step in range(200):
        if order.random() < 0.1:
            order.choice([torch.manual_seed, random.seed, np.random.seed])(step)
        for draw in order.sample(draws, 3):
            draw(order.choice([1, 2, 7, 300, 700]))
        told = watch.moved() or told
        assert _exactly(in_full(told)) == _exactly(watch.capture())  # type: ignore[arg-type]
        if order.random() < 0.1:
            watch.restore(order.choice([told, watch.now(), watch.capture()]))
            assert _exactly(watch.capture()) == _exactly(in_full(told))  # type: ignore[arg-type]


def test_words_are_told_once_and_what_follows_from_them_is_small() -> None:
    watch, known = Generators(), set()
    for _ in range(5000):  # a turn of each twister with each
        torch.rand(624), random.getrandbits(32 * 624), np.random.bytes(4 * 624)
        told = watch.moved()
        assert isinstance(told, Advanced)
        known.add(told.base)
        assert len(pickle.dumps(told._replace(base=None), protocol=5)) < 300
        assert max(told.turns) <= 2048
    assert len(known) == 3  # after so many turns they are told anew, and putting back stays quick
    assert _exactly(told.in_full()) == _exactly(watch.capture())


@pytest.mark.parametrize("kind", ["PCG64", "MT19937"])
def test_another_bit_generator_of_numpys_is_kept_too(watch: Generators, kind: str) -> None:
    before = np.random.get_bit_generator()  # type: ignore[attr-defined]
    mine = watch.capture()
    try:
        np.random.set_bit_generator(getattr(np.random, kind)(7))  # type: ignore[attr-defined]
        states = watch.moved()
        assert states is not None
        expected = np.random.rand(4).tolist()
        assert watch.moved() is not None
        assert watch.moved() is None
        watch.restore(mine)
        assert type(np.random.get_bit_generator()).__name__ == "MT19937"  # type: ignore[attr-defined]
        watch.restore(states)
        assert type(np.random.get_bit_generator()).__name__ == kind  # type: ignore[attr-defined]
        assert np.random.rand(4).tolist() == expected
    finally:
        np.random.set_bit_generator(before)  # type: ignore[attr-defined]


def test_without_numpy_there_is_no_state_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "numpy")
    watch = Generators()
    states = watch.capture()
    assert states == States(states.torch, states.python, None)
    random.random()
    assert watch.moved() is not None
    watch.restore(states)
