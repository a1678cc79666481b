"""Manifests, checked before a cluster sees them."""
