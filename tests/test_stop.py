"""When processes ask each other to stop, in one process that takes itself for one of two."""

import types

import jax

from nn_lib.train import processes
from nn_lib.train.interrupt import StopRequest
from nn_lib.train.sharding import Layout, MeshConfig


def test_quick_steps_ask_seldom_and_a_signal_is_soon_answered_when_they_become_slow(monkeypatch):
    now, questions, request = [0.0], [], StopRequest()
    mesh = Layout.of(MeshConfig(1)).mesh
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(processes, "time", types.SimpleNamespace(monotonic=lambda: now[0]))
    stop = processes.Stop(request, mesh)
    combine = stop._combine
    stop._combine = lambda said: questions.append(now[0]) or combine(said)

    def steps(count: int, seconds: float) -> int:
        """How many are taken until all stop."""
        for taken in range(1, count + 1):
            now[0] += seconds
            if stop.asked():
                return taken
        return count

    assert steps(300, 0.001) == 300
    assert 25 <= len(questions) <= 40
    request.number = 15
    assert 10 < steps(300, 100.0) <= 21  # to the next question, and to that which reads its answer
    assert stop.number == 15


def test_slow_steps_ask_after_each(monkeypatch):
    mesh = Layout.of(MeshConfig(1)).mesh
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    now, request = [0.0], StopRequest()
    monkeypatch.setattr(processes, "time", types.SimpleNamespace(monotonic=lambda: now[0]))
    stop = processes.Stop(request, mesh)
    for _ in range(20):
        now[0] += 1.0
        assert not stop.asked()
    request.number = 15
    assert [stop.asked() for _ in range(2)] == [False, True]
