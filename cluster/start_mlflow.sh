#!/usr/bin/env bash
# Starts MLflow's server on the head, unless it runs already; read cluster/environment.sh first.
set -euo pipefail
if curl --silent --fail --max-time 5 http://127.0.0.1:5000/health >/dev/null; then exit 0; fi
# All interfaces, so that workers reach it; the cluster's security group lets nobody else in. One process writes the
# database, which a file on network storage needs.
export MLFLOW_DISABLE_TELEMETRY=true MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false
address=$(hostname -I | cut -d' ' -f1)
nohup setsid mlflow server --host 0.0.0.0 --port 5000 --workers 1 \
  --allowed-hosts "$address:5000,localhost:5000,127.0.0.1:5000" \
  --backend-store-uri sqlite:////shared/mlflow/mlflow.db --artifacts-destination /shared/mlflow/artifacts \
  > ~/mlflow.log 2>&1 < /dev/null &
