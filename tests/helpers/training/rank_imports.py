"""Imports of the processes in which ranks run: the process that they are copied from imports this, once."""

import importlib

from srpo_ray.imports import spare_imported, without_collection

# What the product imports late, and only where it is used.
LATE = (
    "open_clip",
    "pytest",
    "diffusers.models.transformers.transformer_flux",
    "diffusers.pipelines.flux.pipeline_flux",
    "srpo_ray.rewards.models.open_clip",
    "srpo_ray.training.setup",
    "transformers.models.clip.modeling_clip",
    "transformers.models.t5.modeling_t5",
)

with without_collection():
    from srpo_ray.training import engine

    for name in LATE:
        importlib.import_module(name)
    engine._skip_compiled_shared_memory()
    engine._skip_compiled_muon()
# DeepSpeed collects garbage for each engine: no rank need look through all that is imported here.
spare_imported()
