# What every process of a cluster's node starts with; read from ~/srpo_ray by the start commands and the head's shells.
source .venv/bin/activate
# Ray refuses whoever does not show the token in ~/.ray/auth_token.
export RAY_AUTH_MODE=token
# Downloaded weights, and the login to the hub that gated ones need, are shared by all nodes.
export HF_HOME=/shared/huggingface
# RAY_HEAD_IP is set on workers; on the head it is the node's own address.
export MLFLOW_TRACKING_URI="http://${RAY_HEAD_IP:-$(hostname -I | cut -d' ' -f1)}:5000"
