"""The values one step away from a value."""

from __future__ import annotations

from search_spaces.domains import MUTATION_STEP, Choice, Domain, Int, ParamValue, same


def steps_from(domain: Domain, value: ParamValue) -> tuple[ParamValue, ...]:
    """The values one step away: never the value itself, each once.

    An Int and a Choice of increasing numbers step to the next lower and higher value, any other Choice
    to each other value, a Float by MUTATION_STEP of its range down and up, as far as its bounds allow.

    Raises DomainError if the value is not in the domain.
    """
    place = domain.encode(value)
    found: list[ParamValue]
    if isinstance(domain, Choice):
        if domain.is_ordered:
            index = next(i for i, one in enumerate(domain.values) if same(one, value))
            found = [domain.values[i] for i in (index - 1, index + 1) if 0 <= i < len(domain.values)]
        else:
            found = [one for one in domain.values if not same(one, value)]
    elif isinstance(domain, Int):
        found = [one for one in (int(value) - 1, int(value) + 1) if domain.contains(one)]
    else:
        found = [domain.decode(max(place - MUTATION_STEP, 0.0)), domain.decode(min(place + MUTATION_STEP, 1.0))]
        found = [one for one in dict.fromkeys(found) if one != value]
    return tuple(found)
