# A detector behind HTTP, see docs/serving.md:
#   docker build -t dyzoo-serve .
#   docker run --rm -p 8000:8000 dyzoo-serve --threshold 0.5
FROM python:3.12-slim

# torch as PyPI has it for Linux brings the libraries of CUDA along, several gigabytes. For a smaller image on the CPU
# name an index that has CPU wheels: docker build --build-arg PIP_INDEX_URL=... --build-arg PIP_EXTRA_INDEX_URL=...
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL

# The deformable convolution is compiled for the CPU that it runs on, in two seconds when it is first needed.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY dyzoo/ dyzoo/
COPY kernels/ kernels/
COPY weights/ weights/
COPY benchmarks/ benchmarks/
# hadolint ignore=DL3013
RUN pip install --no-cache-dir '.[serve,onnx]' \
    && useradd --create-home --uid 10001 dyzoo

# Checkpoints that are fetched are kept here: mount a volume, or a folder of detectors of your own.
ENV DYZOO_HOME=/home/dyzoo/models
RUN install --directory --owner=dyzoo /home/dyzoo/models
USER 10001:10001
WORKDIR /home/dyzoo

EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=120s \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/healthz', timeout=4)"]
ENTRYPOINT ["dyzoo", "serve", "--host", "0.0.0.0"]
