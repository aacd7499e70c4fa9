"""Devices and processes: the mesh, sharding rules, several processes and their supervisor."""
