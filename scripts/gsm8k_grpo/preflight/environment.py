"""Environment variables for compiling without an accelerator. They must be set before JAX is imported."""

# JAX itself runs on the host's CPU. The TPU's compiler must neither look for a TPU or its metadata server, nor take the
# lock that keeps other processes from a real TPU.
COMPILE_ONLY = {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
}
