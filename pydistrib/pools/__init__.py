"""Engines that run Python tasks, all with the same methods: see `protocol`."""
