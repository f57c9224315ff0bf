import pytest

from serving.security.names import Names


@pytest.mark.parametrize("given", ["a", "A-b_c.9", "x" * 64])
def test_a_fit_name_of_the_client_s_own_is_kept(given: str) -> None:
    assert Names().name(given) == given


@pytest.mark.parametrize("given", [None, "", "x" * 65, "a b", "a\r\nset-cookie: b", "a\n", "é", "a;b", "\0"])
def test_any_other_is_replaced_by_a_new_one(given: str | None) -> None:
    names = Names(prefix="p")
    assert [names.name(given), names.name(given)] == ["p-1", "p-2"]


def test_two_servers_give_no_name_twice() -> None:
    assert Names().name(None) != Names().name(None)
