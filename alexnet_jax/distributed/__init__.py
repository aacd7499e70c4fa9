"""Devices and processes: the mesh, the sharding rules, clusters of processes and their supervisor."""
