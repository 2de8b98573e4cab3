# docker build --target cpu -t guise .
# docker run --rm -v "$PWD:/work" -v guise:/root/.cache guise guise-infer -o out.png
#
# docker build --target cuda -t guise:cuda .
# docker run --rm --gpus all -v "$PWD:/work" -v guise:/root/.cache guise:cuda guise-infer -o out.png
#
# The operators compile at their first use, for the processor and GPU that are there; the volume
# keeps them.

FROM python:3.12-slim-bookworm AS cpu
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ libgl1 libglib2.0-0 \
    && rm -rf /var/lib/apt/lists/*
COPY . /guise
WORKDIR /guise
# The CPU build of torch; then the detectors, with the NumPy that they need.
RUN pip install --no-cache-dir --extra-index-url https://download.pytorch.org/whl/cpu \
        -r requirements.txt \
    && pip install --no-cache-dir -e '.[extract,hub]'
WORKDIR /work
CMD ["guise-infer", "--help"]

FROM nvidia/cuda:13.0.1-devel-ubuntu24.04 AS cuda
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends \
        g++ libgl1 libglib2.0-0t64 python3 python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/*
ENV PATH=/venv/bin:$PATH
COPY . /guise
WORKDIR /guise
RUN python3 -m venv /venv \
    && pip install --no-cache-dir -r requirements.txt \
    && pip install --no-cache-dir -e '.[extract,hub]'
WORKDIR /work
CMD ["guise-infer", "--help"]
