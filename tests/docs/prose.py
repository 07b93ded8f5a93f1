"""The prose of a page, and the numbers in it."""

import re
from collections.abc import Sequence

LEFT_OUT = re.compile(
    r"<!-- begin table.*?<!-- end table[^>]*-->|<!--.*?-->"  # what is generated
    r"|^ *```(\{figure\})?.*?^ *```$"  # code and directives, but captions are prose
    r"|(?<=\])\([^)]*\)",  # where a link leads
    re.DOTALL | re.MULTILINE,
)
NO_PROSE = re.compile(r"`[^`]*`|\$\$[^$]+\$\$|\$[^$]+\$|arXiv:[\d.]+")
UNITS = (
    r"(?:nats?|ms|(?:milli)?seconds?|s|minutes?|hours?|times|per cent|million|M"
    r"|bits?|bytes?|[kMG]i?B)\b|%"
)
WHOLE = r"\d(?:[\d,]*\d)?"
NUMBER = re.compile(
    rf"(?<![\w.])(?:[-+]?{WHOLE}(?:\.\d+)+"  # a decimal, or a version
    rf"|[-+]{WHOLE}(?!\w)|(?<=\| ){WHOLE}(?= \|)"
    rf"|{WHOLE}(?=(?:(?: (?:to|and|or|±) |, | / )[-+]?{WHOLE}(?:\.\d+)?)* ?(?:{UNITS})))"
)
FIELD = re.compile(r"\{[^}]*\}")
ANY = r"[-+\d.,± ]*\d"


def prose(page: str) -> str:
    """A page without generated tables, code blocks, link targets, stars and breaks.

    >>> prose("**Two** `a*b` [steps](there.md)\\nare\\n```python\\n1.5\\n```\\nahead.")
    'Two `a*b` [steps] are ahead.'
    """
    text = LEFT_OUT.sub(
        lambda match: match[0].replace("`", "") if match[1] else "", page
    )
    text = re.sub(r"(`[^`]*`)|\*+", lambda match: match[1] or "", text)
    return " ".join(text.split())


def numbers(text: str) -> list[tuple[int, int]]:
    """Where a prose has decimals, signed numbers, whole ones with a unit or a cell.

    Those in inline code, in mathematics and of arXiv are left out.

    >>> text = "`x=1.5`: 0.28 to 0.39 of 100 steps, then -28 and 3 to 20 % (in 2.6.1)"
    >>> [text[slice(*span)] for span in numbers(text)]
    ['0.28', '0.39', '-28', '3', '20', '2.6.1']
    """
    text = NO_PROSE.sub(lambda match: "`" * len(match[0]), text)
    return [match.span() for match in NUMBER.finditer(text)]


def pattern(fragment: str, values: Sequence[object] | None = None) -> re.Pattern[str]:
    """What finds a fragment with these values, or with any numbers, which are its groups.

    >>> pattern("by {:.1f} ± {:.1f} nats", [1.43, 0.11]).pattern
    'by\\\\ (1\\\\.4)\\\\ ±\\\\ (0\\\\.1)\\\\ nats'
    """
    first, *words = map(re.escape, FIELD.split(fragment))
    fields = FIELD.findall(fragment)
    shown = [ANY for _ in fields]
    if values is not None:
        shown = [re.escape(f.format(v)) for f, v in zip(fields, values, strict=False)]
    pairs = zip(shown, words, strict=True)
    return re.compile(first + "".join(f"({value}){after}" for value, after in pairs))
