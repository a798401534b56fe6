# The studio in a container, on the CPU:
#   docker build -t vampnet-studio . && docker run -p 7860:7860 -v vampnet:/data vampnet-studio
# torch as pip finds it brings CUDA's libraries along (6 GB); PIP_OPTIONS may name an index with builds for the CPU alone.
FROM python:3.11-slim

RUN useradd --create-home --uid 1000 studio && mkdir /data && chown studio:studio /data
WORKDIR /home/studio/app

ARG PIP_OPTIONS=
COPY requirements.txt ./
RUN pip install --no-cache-dir --disable-pip-version-check $PIP_OPTIONS -r requirements.txt

COPY --chown=studio:studio app.py LICENSE README.md ./
COPY --chown=studio:studio assets assets
COPY --chown=studio:studio checkpoints checkpoints
COPY --chown=studio:studio vampnet vampnet

USER studio
RUN python -m vampnet compile
# What is to outlive the container: shared vamps, and models that were downloaded.
VOLUME /data
ENV VAMPNET_GALLERY=/data/gallery HF_HOME=/data/hub GRADIO_ANALYTICS_ENABLED=False PYTHONUNBUFFERED=1
EXPOSE 7860
HEALTHCHECK --interval=30s --timeout=5s --start-period=90s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:7860/', timeout=4)"]
CMD ["python", "app.py", "--host", "0.0.0.0", "--port", "7860"]
