"""Names of networks, activations and likelihoods, for whoever does without PyTorch."""

NETWORKS = ("mlp", "gated_mlp", "resnet", "conv")
ACTIVATIONS = ("relu", "elu", "tanh")
LIKELIHOODS = ("bernoulli", "gaussian", "discretized_logistic")
