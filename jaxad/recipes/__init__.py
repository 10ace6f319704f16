"""From a configuration to backbones, a method and its training phases; one file a method."""
