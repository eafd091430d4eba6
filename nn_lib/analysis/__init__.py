"""Looking into models: where a gradient goes."""
