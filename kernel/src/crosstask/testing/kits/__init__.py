"""The checks of each contract: one file, one `KIT` per extension point."""
