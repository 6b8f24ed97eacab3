# One image for every part of Coral Reef; the command chooses the part (see docker-compose.yml).
FROM python:3.11-slim-bookworm

# OpenMP runtime of the engines; what reads pictures and scanned pages
RUN apt-get update \
    && apt-get install -y --no-install-recommends libgomp1 tesseract-ocr tesseract-ocr-eng \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /app
ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 PIP_DISABLE_PIP_VERSION_CHECK=1

# first the packages: they change less often than the code
COPY requirements.txt ./
COPY libs ./libs
RUN pip install --no-cache-dir -r requirements.txt

COPY app ./app
COPY cli ./cli
COPY reef ./reef
COPY tasks ./tasks
COPY workers ./workers
COPY queues.yaml ./

RUN useradd --system --uid 10001 --create-home reef && install -d -o reef -g reef -m 0700 /data
USER reef
ENV REEF_DATA_DIR=/data REEF_QUEUES_FILE=/app/queues.yaml
VOLUME /data
EXPOSE 8080

ENTRYPOINT ["python", "-m", "cli"]
CMD ["up", "--host", "0.0.0.0"]
