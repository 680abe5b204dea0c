# docker build -t breakhis .                        CPU; for NVIDIA cards: --build-arg EXTRA=gpu, and run with --gpus all
# docker run --rm -v breakhis:/breakhis breakhis demo                          a named volume keeps data, runs and reports
# docker run --rm -v breakhis:/breakhis -e KAGGLE_API_TOKEN breakhis download
# docker run --rm -v "$PWD:/breakhis" -u "$(id -u)" breakhis train --config binary_200x        a folder of yours instead
# Checked with hadolint; never built so far.
FROM python:3.12-slim-bookworm
ARG EXTRA=""
ENV PIP_NO_CACHE_DIR=1 PYTHONUNBUFFERED=1 KERAS_HOME=/breakhis/.keras MPLCONFIGDIR=/tmp/matplotlib

WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY configs configs
COPY breakhis_cls breakhis_cls
RUN pip install -c constraints.txt ".${EXTRA:+[$EXTRA]}"

RUN useradd --create-home --uid 1000 breakhis && mkdir /breakhis && chown 1000 /breakhis
USER 1000
WORKDIR /breakhis
VOLUME /breakhis
COPY --chmod=755 scripts/docker_entry.sh /usr/local/bin/docker_entry
ENTRYPOINT ["docker_entry"]
CMD ["--help"]
