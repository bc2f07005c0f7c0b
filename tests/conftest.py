"""Tests see what the package's doors see: the related systems too."""

from paperlib.study import extensions

extensions.load()
