"""Fake plugins for the kernel's tests: a whole small family, honest and of no use, that no distribution ships.

`components` fulfil the kernel's contracts, `stages` are steps of a recipe, `contracts`, `choosers` and `kit` bring an
extension point of their own, `cli` a command, `recipes` a recipe. `plugin` has the manifest.
"""
