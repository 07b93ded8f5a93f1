"""Log-likelihoods with their errors, and where a bound loses."""
