"""What a signal does to a run."""

import os
import signal
from types import SimpleNamespace

import torch

from evax.runs.device import stop_requests


def agreement_of_two(other=0, during=lambda: None):
    """A process of two whose other one has received the signal `other`; `during` happens while they agree."""

    def all_reduce(number, reduce_op):
        result = torch.maximum(number, torch.tensor(other))
        during()
        return result

    return SimpleNamespace(world_size=2, to_device=lambda tensor: tensor, all_reduce=all_reduce)


def test_a_signal_stops_one_process_after_its_step():
    with stop_requests() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        assert not stop
        stop.agree(SimpleNamespace(world_size=1))
        assert stop
        assert stop.signal_number == signal.SIGTERM


def test_a_signal_of_the_other_process_stops_this_one():
    with stop_requests() as stop:
        stop.agree(agreement_of_two(other=signal.SIGTERM))
        assert stop.signal_number == signal.SIGTERM


def test_a_signal_that_comes_while_the_processes_agree_is_not_lost():
    with stop_requests() as stop:
        stop.agree(agreement_of_two(during=lambda: os.kill(os.getpid(), signal.SIGTERM)))
        assert not stop  # the other process has been told of none: both go on
        stop.agree(agreement_of_two())
        assert stop
