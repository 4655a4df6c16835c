# Everything, for a CPU; with a GPU's torch, the one that constraints.txt pins, from PyPI:
#   docker build -t reproduce .
#   docker build -t reproduce --build-arg TORCH_INDEX=https://pypi.org/simple .
#   docker run --rm reproduce list --paper dqa --scale laptop
FROM python:3.11-slim-bookworm

# g++ compiles quantised activations, git names the commit in records, make runs book and test.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ git make \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home reader \
    && mkdir /reproduce /opt/venv \
    && chown reader:reader /reproduce /opt/venv

USER reader
WORKDIR /reproduce
ENV VENV=/opt/venv PATH=/opt/venv/bin:$PATH PIP_NO_CACHE_DIR=1

# The libraries before the code: a change of the code does not fetch them again.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
COPY --chown=reader:reader requirements.txt constraints.txt ./
RUN python -m venv "$VENV" \
    && pip install --extra-index-url "$TORCH_INDEX" -r requirements.txt -c constraints.txt

COPY --chown=reader:reader . .
RUN make env

ENTRYPOINT ["reproduce"]
CMD ["--help"]
