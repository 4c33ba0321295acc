# One image for everything that docker-compose.yaml starts: revector, its services and Airflow.
#
#   docker build -t revector:0.2.0 .
#
# Versions are those of requirements.lock, used as constraints: the image gets what EXTRAS need and not the test tools.
#
# torch: PyTorch's CPU wheel index is asked too, and pip prefers its small "+cpu" wheel. For the CUDA build (several GB),
# which is PyPI's on Linux:
#
#   docker build --build-arg PIP_EXTRA_INDEX_URL= -t revector:0.2.0-cuda .

# The Python that requirements.lock was made for.
ARG PYTHON=3.11.13-slim-bookworm@sha256:86adf8dbadc3d6e82ee5dd2c74bec2e1c2467cdad47886280501df722372d2e1

FROM python:${PYTHON} AS build
ARG PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu
ARG EXTRAS=embed,airflow,serve
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /venv
WORKDIR /build
COPY pyproject.toml README.md requirements.lock ./
# torch comes first and by pip, which prefers the CPU build of an extra index; all else has the hash that the lock names.
RUN sed -n '/^uv==/,/[^\\]$/p' requirements.lock > uv.txt && /venv/bin/pip install --require-hashes -r uv.txt \
    && case ",${EXTRAS}," in *,embed,*|*,demo,*|*,dev,*) /venv/bin/pip install "$(grep '^torch==' requirements.lock)" ;; esac
COPY LICENSE ./
COPY docs ./docs
COPY src ./src
RUN /venv/bin/uv pip install --no-cache --python /venv/bin/python --constraint requirements.lock ".[${EXTRAS}]"

FROM python:${PYTHON}
RUN useradd --uid 10001 --create-home --shell /usr/sbin/nologin revector \
    && install --directory --owner=revector --group=revector --mode=0700 /state /airflow
COPY --from=build /venv /venv
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 AIRFLOW_HOME=/airflow REVECTOR_STATE_FOLDER=/state
USER revector
# The project: revector.toml, migrations/, dags/, plugins/. It is mounted, never copied.
WORKDIR /project
CMD ["revector", "--help"]
