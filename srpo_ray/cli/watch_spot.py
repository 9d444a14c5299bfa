"""`srpo-ray watch-spot`: drain the Ray node of a spot machine when the cloud announces its preemption."""

import argparse

HELP = "drain the Ray node of a spot machine when the cloud announces its preemption"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `watch-spot`."""
    clouds = ("auto", "aws", "gcp", "azure")
    parser.add_argument("--cloud", choices=clouds, default="auto", help="cloud of this machine (default: try each)")
    parser.add_argument(
        "--interval", type=float, default=2.0, metavar="S", help="seconds between two queries (default 2)"
    )
    parser.add_argument(
        "--metadata-url", metavar="URL", help="metadata service (default: the address that all three clouds use)"
    )
    parser.add_argument(
        "--node-id", metavar="HEX", help="Ray's id of the node (default: the only node on this machine)"
    )


def run(parsed: argparse.Namespace) -> int:
    """Query the metadata service until it announces a preemption, or the node ends."""
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
