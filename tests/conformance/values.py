"""Values of cases: their notation, and whether what came is what was expected."""

ANY, REST = "*", "..."


class Mismatch(Exception):
    """What came is not what was expected."""


class OneOf(tuple):
    """Any of these is good."""


def plain(value, variables):
    """Replace the notation of cases: variables that have a value, and what JSON lacks."""
    if isinstance(value, str) and value.startswith("$") and value[1:] in variables:
        return variables[value[1:]]
    if isinstance(value, list):
        return [plain(v, variables) for v in value]
    if not isinstance(value, dict):
        return value
    if value.keys() == {"bin"}:
        return bytes.fromhex(plain(value["bin"], variables))
    if value.keys() == {"str"}:
        return bytes.fromhex(plain(value["str"], variables)).decode("utf-8", "surrogateescape")
    if value.keys() == {"uint"}:
        return int(value["uint"])
    if value.keys() == {"repeat", "times"}:
        return value["repeat"] * value["times"]
    return {k: plain(v, variables) for k, v in value.items()}


def show(value):
    text = repr(value)
    return text if len(text) < 300 else f"{text[:200]}... ({len(text)} characters)"


def match(expected, found, variables, where="it"):
    """Fail if `found` is not as expected; variables without a value take it."""
    if isinstance(expected, str) and expected == ANY:
        return
    if isinstance(expected, str) and expected.startswith("$"):
        if expected[1:] not in variables:
            variables[expected[1:]] = found
            return
        expected = variables[expected[1:]]
    if isinstance(expected, OneOf):
        if found not in expected:
            raise Mismatch(f"{where} is {show(found)}, not {' or '.join(expected)}")
    elif isinstance(expected, list) and isinstance(found, list):
        match_lists(expected, found, variables, where)
    elif isinstance(expected, dict) and isinstance(found, dict):
        for key, value in expected.items():
            if key not in found:
                raise Mismatch(f"{where} has no {key}: {show(found)}")
            match(value, found[key], variables, f"{where}'s {key}")
    elif type(expected) is not type(found) or expected != found:
        raise Mismatch(f"{where} is {show(found)}, not {show(expected)}")


def match_lists(expected, found, variables, where):
    if expected[-1:] == [REST]:
        expected, found = expected[:-1], found[:len(expected) - 1]
    if len(expected) != len(found):
        raise Mismatch(f"{where} is {show(found)}, not {show(expected)}")
    for i, value in enumerate(expected):
        match(value, found[i], variables, f"{where}, element {i}")
