"""The exporter's tests look into what it writes, so their bundles are exported and not the built-in model."""

from support.exported_bundles import bundle, engine, mute_bundle

__all__ = ["bundle", "engine", "mute_bundle"]
