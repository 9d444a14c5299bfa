"""Where a pipeline's files are."""

SMALL_WORLD = "small_world"


def resolve_path(path: str) -> str:
    """Folder or hub id of a pipeline; `small_world` becomes the folder of the embedded one."""
    if path == SMALL_WORLD:
        from srpo_ray.small_world.weights import flux_dir

        return str(flux_dir())
    return path
