"""The verdict that the systems share. No torch here."""

from paperlib.basics.statistics import direction

CANNOT_TELL, NOT_APART = "cannot tell", "not told apart"
YES_OR_NO = ("yes", "no", CANNOT_TELL)
LEVELS = ("higher", "lower", NOT_APART)


def told(difference: float, error: float, n: int, words: tuple[str, str, str] = YES_OR_NO) -> str:
    """Whether the mean of n differences, with its standard error, is clearly above 0, clearly below
    it, or neither, as `direction` has it: the first, second or third of the words.

    >>> told(1.0, 0.1, 3), told(-1.0, 0.1, 3), told(1.0, 0.1, 1)
    ('yes', 'no', 'cannot tell')
    """
    above, below, neither = words
    return {1: above, -1: below, 0: neither}[direction(difference, error, n)]
