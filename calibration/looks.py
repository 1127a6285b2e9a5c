"""How many texts a verdict looks at: more are drawn until it is decided, or there are no more.

Each look at more texts is another chance to be wrong, so the bounds of every look are at 1 - 5 %
divided by the number of looks (Bonferroni): a loss above its limit is accepted in at most 5 % of
all cases, however often is looked.
"""

from __future__ import annotations

# Questions and graded pairs by look: 4, 12 and 26, and 4, 12 and 24 in each of 24 languages.
LOOKS = ((96, 96), (288, 288), (624, 576))
WRONG = 0.05


def confidence() -> float:
    """Of each bound."""
    return 1 - WRONG / len(LOOKS)
