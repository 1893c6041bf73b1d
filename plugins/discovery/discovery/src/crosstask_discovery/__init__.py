"""Relationship discovery: the discovery stage, the machinery of transferability estimators."""
