"""`--cluster`, `--attach`, `--stop`: a command as a job of a cluster; and the watcher of its spot machines."""

import argparse

from srpo_ray.arguments import DEFAULT_EXPERIMENTS
from srpo_ray.commands.inputs import files_and_overrides, load_or_resume


def on_cluster(parsed: argparse.Namespace) -> int:
    """Load what a command would, so that a mistake is answered here, then run it as a job there."""
    from srpo_ray.config import ConfigError

    if not parsed.cluster:
        raise ConfigError("expected --cluster beside --attach or --stop, got none; a job is one of a cluster")
    if parsed.address:
        raise ConfigError("expected --cluster or --address, got both; --address is for a node of the cluster itself")
    folder = None if parsed.attach or parsed.stop else _results_folder(parsed)
    from srpo_ray.cluster.command import run_on_cluster

    return run_on_cluster(parsed, folder)


def _results_folder(parsed: argparse.Namespace) -> str | None:
    from srpo_ray.config import load_run

    if getattr(parsed, "resume", None):
        return parsed.resume
    if parsed.command in DEFAULT_EXPERIMENTS:
        named, base = load_or_resume(parsed)
    else:
        named = base = load_run(*files_and_overrides(parsed.config))
    return None if parsed.command == "encode" else f"{base.run_root}/{named.name}"


def watch_spot(parsed: argparse.Namespace) -> int:
    """`watch-spot`: until the cloud gives notice, or the node ends."""
    import logging

    from srpo_ray.cluster.metadata import DEFAULT_URL, find_metadata
    from srpo_ray.cluster.spot import find_node, watch

    if parsed.interval <= 0:
        raise ValueError(f"--interval: expected seconds above 0, got {parsed.interval:g}")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s watch-spot: %(message)s")
    cloud, metadata = find_metadata(parsed.cloud, parsed.metadata_url or DEFAULT_URL)
    node = find_node(parsed.node_id)
    logging.info("watching for %s's notice; Ray node %s of %s", cloud, node.node_id, node.gcs_address)
    watch(metadata, node, parsed.interval)
    return 0
