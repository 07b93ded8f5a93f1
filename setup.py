"""Metadata of pyro_vae_zoo; the tools' settings are in pyproject.toml."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = re.search(
    r'^__version__ = "(.+)"$', (ROOT / "pyro_vae_zoo/_version.py").read_text(), re.M
).group(1)

setup(
    name="pyro-vae-zoo",
    version=VERSION,
    description="Variational auto-encoders in Pyro with rich posteriors: "
    "flow guides, importance-sampled likelihoods, fair comparisons.",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    author="The pyro_vae_zoo developers",
    keywords=[
        *("variational auto-encoder", "VAE", "Pyro", "PyTorch", "normalizing flows"),
        *("variational inference", "importance sampling", "generative models"),
    ],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "Operating System :: OS Independent",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
    python_requires=">=3.10",
    # An editable install is then a path, which type checkers can follow.
    package_dir={"": "."},
    packages=find_packages(include=["pyro_vae_zoo", "pyro_vae_zoo.*"]),
    package_data={
        "pyro_vae_zoo": ["py.typed", "*.pyi"],
        "pyro_vae_zoo.explorer": ["web/*"],
        "pyro_vae_zoo.runs": ["references.json"],
        "pyro_vae_zoo.weights": ["*.safetensors", "*.json"],
    },
    install_requires=[
        "pyro-ppl>=1.9.1",
        "torch>=2.6",
        "numpy",
        "scipy",
        "scikit-learn",
        "matplotlib",
        "networkx",
        "tqdm",
        "safetensors",
        "filelock",
        "lazy_loader",
        "msgspec",
        "typing_extensions",
    ],
    extras_require={
        "test": [
            "pytest>=8",
            "pytest-xdist",
            "hypothesis",
            "ruff==0.17.5",
            "build",
            "arviz<1",
            "pandas",
            "import-linter",
            "mypy",
            "torchvision",
            "pyyaml",
            "argcomplete",
            "nbclient",
            "ipykernel",
            "ipywidgets",  # without it tqdm, which Pyro imports, warns in a notebook
        ],
        "cifar10": ["torchvision"],
        "completion": ["argcomplete"],
        "yaml": ["pyyaml"],
        "data": ["pandas"],
        "docs": [
            "sphinx>=8",
            "furo",
            "myst-nb",
            "sphinx-design>=0.6",
            "sphinx-argparse-cli>=1.20",
        ],
        "tutorials": ["jupyter"],
        "benchmarks": ["numpyro", "jax"],
        "loggers": ["tensorboard"],
        "wandb": ["wandb"],
    },
    entry_points={"console_scripts": ["pyro-vae-zoo=pyro_vae_zoo.cli.main:main"]},
)
