# An image that runs srpo-ray on one machine. The image of a Kubernetes cluster is in cluster/Dockerfile.
#
#   docker build -t srpo_ray .                               # NVIDIA GPUs: driver 580 or newer
#   docker build --build-arg TORCH=cpu -t srpo_ray:cpu .     # no GPU
#   docker run --rm --gpus all --shm-size 8g -v "$PWD:/work" srpo_ray train config.yaml
FROM python:3.11-slim-bookworm AS base
RUN python -m pip install --quiet --no-cache-dir uv==0.13.9

FROM base AS wheel
WORKDIR /source
COPY pyproject.toml setup.py MANIFEST.in README.md LICENSE constraints.txt cluster.yaml ./
COPY cluster cluster
COPY configs configs
COPY srpo_ray srpo_ray
RUN uv build --quiet --build-constraints constraints.txt --out-dir /dist

FROM base
# torch.compile and Triton compile kernels at run time.
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
# cuda: the torch of PyPI, which contains CUDA 13.2. cpu: one without CUDA. Others: the values of uv's --torch-backend.
ARG TORCH=cuda
ARG EXTRAS=all
COPY --from=wheel /dist /dist
COPY constraints.txt /dist/
RUN if [ "$TORCH" = cuda ]; then unset UV_TORCH_BACKEND; else export UV_TORCH_BACKEND="$TORCH"; fi && \
    wheel=$(ls /dist/*.whl) && \
    uv pip install --quiet --system --no-cache --compile-bytecode --constraints /dist/constraints.txt "$wheel[$EXTRAS]"
RUN useradd --create-home --uid 1000 srpo && mkdir /work /huggingface && chown srpo /work /huggingface
USER srpo
WORKDIR /work
# Mount a folder here to keep downloaded weights.
ENV HF_HOME=/huggingface
ENTRYPOINT ["srpo-ray"]
CMD ["--help"]
