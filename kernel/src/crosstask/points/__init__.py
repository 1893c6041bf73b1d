"""The contracts, one file per extension point. `crosstask.manifest.POINTS` lists them."""
