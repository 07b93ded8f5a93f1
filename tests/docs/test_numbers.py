"""Every number in the prose of README and pages is that of the results, or exempt.

`claims` says how each is computed from the JSON files in `results/`. After a study was run
again, a failure names the sentence and what it should say.
"""

import pytest
from claims import CLAIMS
from claims.exempt import EVERYWHERE, EXEMPT, Once
from measured import ROOT
from prose import numbers, pattern, prose

PAGES = {
    str(path.relative_to(ROOT)): prose(path.read_text())
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
}


def wrong(text, claims):
    """A line for each sentence that does not say what the results say."""
    lines = []
    for fragment, compute in claims:
        values = list(compute())
        if not pattern(fragment, values).search(text):
            found = pattern(fragment).search(text)
            has = repr(found[0]) if found else "no such words"
            lines.append(f"should say {fragment.format(*values)!r}, has {has}")
    return lines


def uncovered(text, claims, exempt):
    """The numbers that neither a claim computes nor an exemption has, in their place."""
    covered = [
        match.span(group)
        for fragment, compute in claims
        for match in pattern(fragment, list(compute())).finditer(text)
        for group in range(1, len(match.groups()) + 1)
    ]
    covered += [
        match.span() for words in exempt for match in pattern(words).finditer(text)
    ]
    return [
        f"{text[start:end]} in '...{text[max(0, start - 60) : end + 30]}...'"
        for start, end in numbers(text)
        if not any(a <= start and end <= b for a, b in covered)
    ]


def test_claims_and_exemptions_are_of_pages():
    assert not {*CLAIMS, *EXEMPT} - set(PAGES)


@pytest.mark.parametrize("page", CLAIMS)
def test_a_page_says_what_the_results_say(page):
    lines = wrong(PAGES[page], CLAIMS[page])
    assert not lines, "\n".join([page, *lines])


@pytest.mark.parametrize("page", PAGES)
def test_every_number_is_computed_or_exempt(page):
    exempt = [*EVERYWHERE, *EXEMPT.get(page, {})]
    lines = uncovered(PAGES[page], CLAIMS.get(page, []), exempt)
    assert not lines, "\n".join([page, *lines])


@pytest.mark.parametrize("page", EXEMPT)
def test_an_exemption_is_of_a_number_that_no_claim_has(page):
    def left(*exempt):
        return len(uncovered(PAGES[page], CLAIMS.get(page, []), [*EVERYWHERE, *exempt]))

    for words, reason in EXEMPT[page].items():
        assert left(words) < left(), f"{words}: exempt for nothing"
        if isinstance(reason, Once):
            assert reason in PAGES[page], f"{words}: the page does not name its command"


def test_what_is_wrong_or_uncovered_is_found():
    claims = [("ahead by {:.1f} nats", lambda: (1.43,))]
    assert wrong("It is ahead by 1.4 nats.", claims) == []
    (line,) = wrong("It is ahead by 1.5 nats.", claims)
    assert line == "should say 'ahead by 1.4 nats', has 'ahead by 1.5 nats'"
    text = "It is ahead by 1.4 nats, and takes 1.4 times as long, above 0.7."
    (line,) = uncovered(text, claims, ["above 0.7"])
    assert line.startswith("1.4 in '...It is ahead by 1.4 nats, and takes 1.4 times")
    assert len(uncovered(text, [], [])) == 3
