# The pipeline with all that it needs, for a CPU or an NVIDIA GPU:
#   docker build --tag showing-its-work .
#   docker run --rm --volume "$PWD/results:/project/results" showing-its-work
#   docker build --build-arg PLATFORM=cuda --tag showing-its-work:cuda .
#   docker run --rm --gpus all --volume "$PWD/results:/project/results" showing-its-work:cuda \
#     results/report.html --config recipes=minigrpo-fast 'dataset={source: huggingface}' platform=cuda
# CUDA's libraries are packages of envs/cuda.txt; the host has the driver.
FROM python:3.12-slim-bookworm

# Debian has one version of make in a release.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends make \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /project

# Set-up before the code, which changes more often.
ARG PLATFORM=cpu
COPY Makefile ./
COPY envs envs/
RUN PIP_NO_CACHE_DIR=1 UV_NO_CACHE=1 make setup "PLATFORM=$PLATFORM"

COPY LICENSE Snakefile config.yaml ./
COPY profiles profiles/
COPY recipes recipes/
COPY rules rules/
COPY schemas schemas/
COPY scripts scripts/

ENV PATH="/project/.venv/bin:$PATH"
ENTRYPOINT ["snakemake", "--cores", "1"]
CMD ["results/report.html"]
