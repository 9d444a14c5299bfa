"""Cluster support: commands as Ray jobs, node types for the autoscaler, and handling of spot preemption."""
