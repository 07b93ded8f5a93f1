"""Names of networks, activations and likelihoods, for whoever does without PyTorch."""

NETWORKS = ("mlp", "gated_mlp", "resnet", "conv")
ACTIVATIONS = ("relu", "elu", "tanh")
COUNTS = ("binomial", "poisson", "negative_binomial", "categorical")  # whole numbers
LIKELIHOODS = ("bernoulli", "gaussian", "discretized_logistic", *COUNTS)
SIZED = ("binomial", "categorical")  # up to a largest one, that the model knows
