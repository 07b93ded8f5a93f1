"""By page: words with places for numbers, and what computes these from the results."""

from claims import benchmarks, flows, pages, studies

CLAIMS = {
    page: claims
    for module in (flows, studies, benchmarks, pages)
    for page, claims in module.CLAIMS.items()
}
