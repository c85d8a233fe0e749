# The example project: one process that serves pages and hosts one node of the cluster; see compose.yaml and docs/raft.md.
FROM python:3.13-slim

WORKDIR /build
COPY pyproject.toml README.md LICENSE ./
COPY dref_django ./dref_django
RUN pip install --no-cache-dir '.[channels]' 'uvicorn[standard]>=0.30,<1'

# Volumes begin as what the image has at their place, so these belong to the user who will write there.
RUN useradd --system --user-group --no-create-home dref \
    && install --directory --owner dref --group dref --mode 0700 /data/node /data/database

WORKDIR /srv/example
COPY example_project ./example_project
ENV DJANGO_SETTINGS_MODULE=example_project.settings PYTHONUNBUFFERED=1
USER dref
EXPOSE 8000 8082

# One process, told of SIGTERM itself: it hands leadership over before it ends.
CMD ["uvicorn", "example_project.asgi:application", "--host", "0.0.0.0", "--port", "8000", "--timeout-graceful-shutdown", "3"]
