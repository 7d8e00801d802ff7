from __future__ import annotations

import inspect

import clients
from clients import errors, results


def test_all_names_exactly_the_public_members() -> None:
    members = {
        name
        for name, value in vars(clients).items()
        if not name.startswith("_") and not inspect.ismodule(value)
    }
    assert set(clients.__all__) == members


def test_every_error_is_exported_so_that_it_can_be_caught() -> None:
    raised = {
        name
        for name, value in vars(errors).items()
        if inspect.isclass(value) and issubclass(value, errors.ParamemError)
    }
    assert raised <= set(clients.__all__)


def test_every_result_is_exported_so_that_it_can_be_annotated() -> None:
    models = {
        name
        for name, value in vars(results).items()
        if inspect.isclass(value) and issubclass(value, results.Result)
    }
    assert models - {"Result"} <= set(clients.__all__)


def test_both_clients_offer_the_same_methods_with_the_same_arguments() -> None:
    def surface(client: type) -> dict[str, list[str]]:
        return {
            name: list(inspect.signature(member).parameters)
            for name, member in vars(client).items()
            if inspect.isfunction(member) and not name.startswith("_")
        }

    assert surface(clients.Client) == surface(clients.AsyncClient)
