"""Contracts every implementation must pass, and fault doubles; shipped with the package."""
