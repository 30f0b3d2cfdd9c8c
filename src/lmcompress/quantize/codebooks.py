"""Formats whose values are not evenly spaced: a name, and what each code reads as before it meets its scale.

The values are in ascending order, 2^bits of them, and 0 is among them, so that a pruned weight stays zero.
"""

CODEBOOKS: dict[str, tuple[float, ...]] = {
    # Dettmers et al. (arXiv 2305.14314), appendix E: quantiles of a normal distribution
    "nf4": (
        *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635),
        *(-0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725),
        *(0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941),
        *(0.7229568362236023, 1.0),
    ),
}
"""Every codebook by name: a new one is a line here, and ``4bit-g64-NAME`` is a format at once."""
