"""By page: words with places for numbers, and what computes these from the results."""

from claims import benchmarks, defaults, flows, pages, priors, studies

CLAIMS: dict[str, list] = {}
for module in (flows, studies, priors, defaults, benchmarks, pages):
    for page, claims in module.CLAIMS.items():
        CLAIMS[page] = CLAIMS.get(page, []) + claims
