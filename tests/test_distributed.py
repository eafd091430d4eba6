"""The address of process 0 as variables of the environment say it, as a cluster's templates do."""

import pytest

from experiments import distributed
from nn_lib.checks import UserError

ADDRESS, COUNT, INDEX = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"
WHOLE = {ADDRESS: "host:12", COUNT: "4", INDEX: "3"}


def address(monkeypatch, variables):
    for name in WHOLE:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return distributed._address()


def test_three_variables_are_an_address_and_none_is_one_process_alone(monkeypatch):
    found = address(monkeypatch, WHOLE)
    assert found == {"coordinator_address": "host:12", "num_processes": 4, "process_id": 3}
    assert address(monkeypatch, {}) == address(monkeypatch, dict.fromkeys(WHOLE, "")) == {}


@pytest.mark.parametrize(
    "changed, message",
    [
        ({INDEX: ""}, "belong together, and JAX_PROCESS_ID is missing"),
        ({COUNT: "", INDEX: ""}, "and JAX_NUM_PROCESSES and JAX_PROCESS_ID is missing"),
        ({ADDRESS: "host"}, "JAX_COORDINATOR_ADDRESS must be host:port, got 'host'"),
        ({COUNT: "two"}, "JAX_NUM_PROCESSES must be a whole number, 1 or more, got 'two'"),
        ({COUNT: "0"}, "JAX_NUM_PROCESSES must be a whole number, 1 or more, got '0'"),
        ({INDEX: "-1"}, "JAX_PROCESS_ID must be a whole number, 0 or more, got '-1'"),
        ({INDEX: "4"}, "JAX_PROCESS_ID must be below JAX_NUM_PROCESSES 4, got 4"),
    ],
)
def test_half_an_address_or_a_wrong_one_is_a_mistake_that_names_the_variable(
    monkeypatch, changed, message
):
    with pytest.raises(UserError, match=message):
        address(monkeypatch, {**WHOLE, **changed})
