"""Numbers of consumers: one each, and low ones."""

from hstreamlite.sub.numbering import Numbering


def test_whoever_comes_gets_the_number_of_one_who_left_before_a_new_one() -> None:
    numbers = Numbering()
    assert [numbers.give(name) for name in ("ada", "bob", "cyd", "bob")] == [1, 2, 3, 2]
    numbers.take_back("bob")
    numbers.take_back("bob")
    assert [numbers.of(name) for name in ("ada", "bob", "cyd")] == [1, 0, 3]
    assert [numbers.give(name) for name in ("dan", "eve", "ada")] == [2, 4, 1]
    assert numbers.names[1:] == ["ada", "dan", "cyd", "eve"]
    numbers.check_invariants()
