"""Pretrained weights: `<guide>-<data>.safetensors`, and beside each a JSON file.

Weights are in 16 bits, 3 MB a file at most and 70 MB together. The JSON says how they
were trained and the log-likelihood that they must reproduce, which was measured on the
file as it is. `weights.pretrained` finds them, `studies.publish` makes them.
"""
