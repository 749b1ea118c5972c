"""The fastest plan is measured once, kept, and never stands in the way of a run."""

import json
import os
import threading
from dataclasses import fields, replace
from types import SimpleNamespace

import pytest
import torch
from staged import Staged
from tiny import Tiny

from fastmte.ensemble import FusedEnsemble
from fastmte.errors import InputError
from fastmte.files import locked
from fastmte.models import _registry
from fastmte.plan import autotune, cache, contest, make_plan
from fastmte.plan.choice import Choice

FRAMES = 64


@pytest.fixture(autouse=True)
def _place(monkeypatch, tmp_path):
    for kind in (Staged, Tiny):
        monkeypatch.setitem(_registry._BUILDERS, kind.__name__.lower(), kind)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("FASTMTE_PLAN", raising=False)


@pytest.fixture
def ensemble():
    return FusedEnsemble.create("staged", [0, 1, 0]).eval()


@pytest.fixture
def file(tmp_path):
    return tmp_path / "fastmte" / "plans.json"


class Machine:
    """A machine that takes the time it is told to, and all else none.

    Attributes:
        seconds: a song, of all members, by plan.
        building: seconds a member.
        now: seconds since its start.
        built: members of every plan that was built.
        passes: plans, in the order in which they were run.
    """

    def __init__(self):
        self.seconds, self.building, self.now = {}, 0.0, 0.0
        self.built, self.passes = [], []
        self.slowdown = lambda plan: 1.0

    def plan(self, ensemble, choice, dtype):
        self.now += self.building * ensemble.n_members
        self.built.append(ensemble.n_members)
        return self.plan_of(ensemble, choice)

    def plan_of(self, ensemble, choice):
        plan = SimpleNamespace(ensemble=ensemble, choice=choice)
        plan.with_chunk = lambda chunk: self.plan_of(ensemble, Choice(choice.name, chunk))
        plan.features = lambda mels: self.run(str(choice), len(mels) * ensemble.n_members)
        return plan

    def run(self, plan, n):
        self.now += self.seconds.get(plan, 0.5) / self.members * n * self.slowdown(plan)
        self.passes.append(plan)

    def choice(self, ensemble, batch_size=4):
        """Return what is chosen on it, and measured."""
        self.members, self.now, start = ensemble.n_members, 0.0, len(cache.read())
        text = str(make_plan(ensemble, batch_size, FRAMES).choice)
        return text, cache.read()[start].milliseconds


@pytest.fixture
def machine(monkeypatch):
    machine = Machine()
    monkeypatch.setattr(contest, "InferencePlan", machine.plan)
    monkeypatch.setattr(contest, "status", lambda: {"tier": "native"})
    for clock in ("monotonic", "perf_counter", "thread_time"):
        monkeypatch.setattr(contest.time, clock, lambda: machine.now)
    return machine


def choice_of(ensemble, batch_size=4, **options):
    return str(make_plan(ensemble, batch_size, FRAMES, **options).choice)


def never(*_):
    pytest.fail("measured again")


# ------------------------------------------------------------------------------------- measuring


def test_measuring_is_done_once_and_kept(ensemble, file, monkeypatch):
    chosen = choice_of(ensemble)
    (found,) = cache.read()
    assert found.plan == chosen
    assert set(found.milliseconds) == {"separate:2", "separate:1", "separate:4", "grouped:1"}
    assert all(ms > 0 for ms in found.milliseconds.values())
    setting = found.setting
    assert (setting.backbone, setting.members, setting.frames) == ("staged", 2, FRAMES)
    assert (setting.batch, setting.precision) == (4, "fp32")
    assert (setting.torch, setting.threads) == (torch.__version__, torch.get_num_threads())
    monkeypatch.setattr(autotune, "measure", never)
    assert choice_of(ensemble) == chosen
    assert choice_of(ensemble, batch_size=3) == chosen, "three songs are of the bucket of four"
    assert [path.name for path in file.parent.iterdir() if path.suffix] == ["plans.json"]


def test_the_fastest_is_chosen(ensemble, machine):
    machine.seconds = {"separate:1": 0.02, "separate:2": 0.01, "separate:4": 0.009}
    machine.seconds["grouped:1"] = 0.012
    choice, measured = machine.choice(ensemble)
    assert choice == "separate:4"
    assert measured == pytest.approx({p: s * 1e3 for p, s in machine.seconds.items()})


def test_the_default_stays_unless_another_is_a_twentieth_faster(ensemble, machine):
    machine.seconds = {"separate:2": 0.0100, "separate:4": 0.0096}
    assert machine.choice(ensemble)[0] == "separate:2"
    machine.seconds = {"separate:2": 0.0100, "separate:4": 0.0094}
    assert machine.choice(ensemble, batch_size=8)[0] == "separate:4"


def test_grouped_convolutions_must_save_a_tenth(ensemble, machine):
    machine.seconds = {"separate:1": 0.012, "separate:2": 0.01, "separate:4": 0.0094}
    machine.seconds |= {"separate:8": 0.012, "grouped:1": 0.0092}
    assert machine.choice(ensemble)[0] == "separate:4", "one member stands for both"
    machine.seconds["grouped:1"] = 0.0089
    assert machine.choice(ensemble, batch_size=8)[0] == "grouped:1"


def test_one_member_is_measured_for_all(machine):
    machine.seconds = dict.fromkeys(("separate:1", "separate:2", "separate:4"), 0.01)
    _, measured = machine.choice(FusedEnsemble.create("staged", [0, 1, 2, 3, 0]))
    assert machine.built == [1, 4], "grouped convolutions are of all members"
    assert measured["separate:4"] == pytest.approx(10), "of all members"


@pytest.mark.parametrize("members", [1, 4, 16])
@pytest.mark.parametrize("building", [0.0, 0.02, 0.3, 1.0])
@pytest.mark.parametrize("song", [0.0002, 0.005, 0.1, 0.4])
def test_all_of_it_ends_in_time(machine, members, building, song):
    """Building, first passes and rounds; a second thread takes a tenth more now and then."""
    names = [f"separate:{size}" for size in (1, 2, 4, 8, 16)] + ["grouped:1"]
    machine.seconds = dict.fromkeys(names, song * members)
    machine.building = building
    machine.slowdown = lambda plan: 1.1 if len(machine.passes) % 3 else 1.0
    ensemble = FusedEnsemble.create("staged", range(members))
    for batch in (1, 8, 32):
        choice, measured = machine.choice(ensemble, batch)
        assert 0 < machine.now <= autotune.BUDGET
        assert choice in measured


def test_compiling_is_no_part_of_choosing(ensemble, machine, monkeypatch):
    names = ["separate:1", "separate:2", "separate:4", "separate:8", "grouped:1"]
    machine.seconds = dict.fromkeys(names, 0.01)
    machine.slowdown = lambda plan: 1000 if len(machine.passes) == 0 else 1
    assert set(machine.choice(ensemble)[1]) == {"separate:2"}
    machine.passes.clear()
    monkeypatch.setattr(contest, "status", lambda: {"tier": "numba"})
    measured = machine.choice(ensemble, batch_size=8)[1]
    assert set(names) == set(measured)
    assert measured["separate:2"] == pytest.approx(10), "the first pass does not count"


def test_more_songs_than_there_is_time_for_are_left_out(ensemble, machine):
    machine.seconds = {f"separate:{size}": 0.2 for size in (1, 2, 4, 8, 16)}
    choice, measured = machine.choice(ensemble, batch_size=32)
    assert choice == "separate:2"
    assert set(measured) == {"separate:2", "separate:1", "separate:4"}


def test_the_default_stays_where_there_is_no_time_for_two(machine):
    machine.seconds = {"separate:1": 0.5, "separate:2": 4.5}
    choice, measured = machine.choice(FusedEnsemble.create("staged", [0, 1, 2]))
    assert choice == "separate:2"
    assert set(measured) == {"separate:2"}
    assert machine.passes == ["separate:2"]


def test_the_least_of_all_rounds_counts(ensemble, machine):
    machine.seconds = {"separate:2": 0.003, "separate:4": 0.0025, "separate:1": 0.0028}
    machine.slowdown = lambda plan: 1.25 if machine.passes.count(plan) < 3 else 1
    choice, measured = machine.choice(ensemble)
    assert choice == "separate:4"
    assert measured["separate:4"] == pytest.approx(2.5)
    assert "grouped:1" in measured and machine.passes.count("grouped:1") == 2, "it is far behind"
    rounds = [plan for plan in machine.passes if plan != "grouped:1"]
    assert set(rounds[-3:]) == {"separate:1", "separate:2", "separate:4"}, "they are timed in turn"


def test_a_candidate_that_fails_is_left_out(ensemble, machine):
    def fails(plan):
        if plan in ("grouped:1", "separate:1"):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return 1.0

    machine.seconds = {"separate:2": 0.01, "separate:4": 0.009}
    machine.slowdown = fails
    choice, measured = machine.choice(ensemble)
    assert choice == "separate:4"
    assert set(measured) == {"separate:2", "separate:4"}
    machine.slowdown = lambda plan: fails("grouped:1")
    with pytest.raises(torch.OutOfMemoryError):
        machine.choice(ensemble, batch_size=16)


def test_only_one_candidate_is_not_measured(file):
    assert choice_of(FusedEnsemble.create("tiny", [0, 1]).eval()) == "module"
    assert not file.exists()


# -------------------------------------------------------------------------------------- the cache


def kept(ensemble):
    choice_of(ensemble)
    (found,) = cache.read()
    return found


@pytest.mark.parametrize("name", [field.name for field in fields(cache.Setting)])
def test_another_setting_is_another_choice(ensemble, name):
    setting = kept(ensemble).setting
    other = replace(setting, **{name: getattr(setting, name) * 2})
    assert cache.find(other) is None
    found = cache.find_or_measure(other, lambda: cache.Found(other, "module"))
    assert (found, cache.find(other)) == ("module", "module")
    assert len(cache.read()) == 2


def test_threads_are_part_of_the_setting(ensemble):
    before = torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            choice_of(ensemble)
    finally:
        torch.set_num_threads(before)
    assert sorted(found.setting.threads for found in cache.read()) == [1, 2]


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "7", '{"format": 1}', '{"format": 1, "plans": [{"setting": 3}]}', "\0"]
)
def test_a_damaged_file_is_replaced(ensemble, file, text):
    file.parent.mkdir()
    file.write_text(text)
    chosen = choice_of(ensemble)
    assert [found.plan for found in cache.read()] == [chosen]


@pytest.mark.parametrize("plan", ["nonsense", "a b", "grouped+graph", "onnx:"])
def test_a_plan_that_is_none_is_not_taken_from_the_file(ensemble, file, plan):
    kept(ensemble)
    content = json.loads(file.read_text())
    content["plans"][0]["plan"] = plan
    file.write_text(json.dumps(content))
    assert choice_of(ensemble) == "separate:2"


def test_without_a_place_for_the_choice_nothing_is_measured(ensemble, monkeypatch, tmp_path):
    monkeypatch.setattr(autotune, "measure", never)
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", "/proc/self", "/dev/null"):
        monkeypatch.setenv("XDG_CACHE_HOME", str(place))
        assert choice_of(ensemble) == "separate:2"
        assert choice_of(ensemble, batch_size=1) == "separate:1"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write all")
def test_a_file_that_cannot_be_written(ensemble, file, monkeypatch):
    kept(ensemble)
    file.parent.chmod(0o500)
    monkeypatch.setattr(autotune, "measure", never)
    assert choice_of(ensemble, batch_size=64) == "separate:2"


def test_without_a_home(ensemble, monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(cache.Path, "home", classmethod(_homeless))
    monkeypatch.setattr(autotune, "measure", never)
    assert cache.cache_file() is None
    assert choice_of(ensemble) == "separate:2"


def _homeless(_):
    raise RuntimeError("Could not determine home directory.")


def test_who_comes_second_waits_for_the_first(ensemble, file, monkeypatch):
    setting = kept(ensemble).setting
    other = replace(setting, batch=64)
    found = cache.Found(other, "grouped:1")
    with locked(file.parent):
        threading.Timer(0.3, lambda: cache._write(file, [found])).start()
        monkeypatch.setattr(cache, "_WAIT", 0.1)
        assert cache.find_or_measure(other, never) is None, "the first does not end"
    monkeypatch.setattr(cache, "_WAIT", 10.0)
    threading.Event().wait(0.5)
    assert cache.find_or_measure(other, never) == "grouped:1"


def test_who_waited_takes_the_choice_of_the_first(ensemble, file):
    other = replace(kept(ensemble).setting, batch=64)
    held, done = threading.Event(), threading.Event()

    def first():
        with locked(file.parent):
            held.set()
            done.wait(0.3)
            cache._write(file, [cache.Found(other, "grouped:1")])

    thread = threading.Thread(target=first)
    thread.start()
    held.wait()
    assert cache.find_or_measure(other, never) == "grouped:1"
    thread.join()


# -------------------------------------------------------------------------------------- overriding


def test_a_plan_that_is_named_is_not_measured(ensemble, file, monkeypatch):
    assert choice_of(ensemble, plan="grouped:2") == "grouped:2"
    monkeypatch.setenv("FASTMTE_PLAN", "separate:1")
    assert choice_of(ensemble) == "separate:1"
    assert choice_of(ensemble, plan="module") == "module"
    monkeypatch.setenv("FASTMTE_PLAN", "default")
    assert choice_of(ensemble, batch_size=16) == "separate:2"
    assert not file.exists()
    monkeypatch.setenv("FASTMTE_PLAN", "separate")
    assert make_plan(ensemble, 4, FRAMES, "auto").choice == Choice.parse(cache.read()[0].plan)


def test_an_engine_without_bfloat16(ensemble, monkeypatch):
    monkeypatch.setattr("torch.cpu._is_amx_tile_supported", lambda: True)
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    assert make_plan(ensemble, 2, FRAMES, "onnx", "auto").dtype == torch.float32
    assert make_plan(ensemble, 2, FRAMES, "separate", "auto").dtype == torch.bfloat16
    with pytest.raises(InputError, match="the engine onnx does not compute in bf16"):
        make_plan(ensemble, 2, FRAMES, "onnx", "bf16")


def test_precision_is_part_of_the_setting(ensemble, monkeypatch):
    monkeypatch.setattr("torch.cpu._is_amx_tile_supported", lambda: True)
    make_plan(ensemble, 2, FRAMES, precision="auto")
    make_plan(ensemble, 2, FRAMES, precision="fp32")
    assert sorted(found.setting.precision for found in cache.read()) == ["bf16", "fp32"]
