"""By page: words with places for numbers, and what computes these from the results."""

from claims import benchmarks, flows, pages, priors, studies

CLAIMS: dict[str, list] = {}
for module in (flows, studies, priors, benchmarks, pages):
    for page, claims in module.CLAIMS.items():
        CLAIMS[page] = CLAIMS.get(page, []) + claims
