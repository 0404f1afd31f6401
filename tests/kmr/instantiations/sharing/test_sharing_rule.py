from kmr.instantiations.sharing.fit import Merge
from kmr.instantiations.sharing.sharing_rule import choose_mergers, rank_mergers


def test_a_merger_comes_after_those_it_builds_on() -> None:
    mergers = [Merge((2,), (3,), 6.0), Merge((0,), (2, 3), 4.0), Merge((1,), (0, 2, 3), 8.0)]
    ranked = rank_mergers(mergers, 2)
    assert ranked == [(3.0, (2, 3)), (3.0, (0, 2, 3)), (4.0, (1, 0, 2, 3))]
    assert choose_mergers([ranked], 0.0) == [[{2, 3}]], "at least one"
    assert choose_mergers([ranked], 0.67) == [[{0, 2, 3}]], "equal losses keep their order"
    assert choose_mergers([ranked], 1.0) == [[{0, 1, 2, 3}]]


def test_the_best_mergers_of_all_kinds_are_chosen() -> None:
    one, other = [(0.1, (0, 1)), (0.9, (2, 3))], [(0.5, (0, 2))]
    assert choose_mergers([one, other], 0.67) == [[{0, 1}], [{0, 2}]]
    assert choose_mergers([one, other], 1.0) == [[{0, 1}, {2, 3}], [{0, 2}]]
    assert choose_mergers([[], other], 1.0) == [[], [{0, 2}]]
