"""What judges a model is tested on a random one, whose replies no training has shaped."""

from support.exported_bundles import bundle, engine, mute_bundle

__all__ = ["bundle", "engine", "mute_bundle"]
