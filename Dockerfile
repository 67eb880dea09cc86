# JupyterLab on the chapters: docker build -t implicit-bias . && docker run --rm -p 8888:8888 implicit-bias
FROM python:3.12-slim
RUN apt-get update --quiet=2 && apt-get install --quiet=2 --yes --no-install-recommends make git \
    && rm -rf /var/lib/apt/lists/*
RUN useradd --create-home reader
USER reader
WORKDIR /home/reader/book
COPY --chown=reader . .
RUN make book
EXPOSE 8888
# The port is reached from outside the container, so JupyterLab listens on all of its addresses.
CMD [".venv/bin/jupyter", "lab", "chapters", "--ip=0.0.0.0", "--no-browser"]
