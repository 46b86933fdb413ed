#!/usr/bin/env bash
# Deploys MaskBank as a Nuclio function where CVAT finds it, and proves with a request that it works.
set -euo pipefail

usage() {
    cat <<'EOF'
Usage: ./deploy.sh [auto|cpu|gpu] [options]

  auto                  gpu if this machine and its Docker (or the cluster) offer an NVIDIA GPU, else cpu (default)
  --platform local|kube CVAT in Docker on this machine (default), or in Kubernetes
  --weights FILE        use this checkpoint instead of the bundled weights ($MASKBANK_WEIGHTS also does)
  --redis HOST:PORT     the Redis or Kvrocks that the function may use (local: CVAT's own, if it runs)
  --registry URL        where the image is pushed; needed for kube ($NUCTL_REGISTRY also does)
  --namespace NAME      Nuclio's namespace (local: nuclio, kube: default; $NUCTL_NAMESPACE also does)
  --stage DIR           only put the function's files into DIR, for CVAT's own serverless/deploy_*.sh
  --dry-run             print every command and run none; needs neither nuctl nor Docker
  -h, --help            show this text

MASKBANK_* variables in your environment become settings of the function, for example
  MASKBANK_MODEL=afb-urr-paper MASKBANK_SIZE=480 ./deploy.sh gpu --weights afb_urr.pth
Also read: CVAT_NETWORK (default cvat_cvat), CVAT_FUNCTIONS_REDIS_PASSWORD, TORCH_INDEX (PyTorch's wheel index).
EOF
}

note() { echo "deploy.sh: $*" >&2; }
fail() { note "$@"; exit 1; }
misused() { note "$@"; usage >&2; exit 2; }

NAME=maskbank # metadata.name in function.yaml
READY_SECONDS=${READY_SECONDS:-180}

# What main.py and model_handler.py need at run time; everything else stays out of the image.
FUNCTION_FILES=(main.py model_handler.py function.yaml function-gpu.yaml requirements.txt LICENSE)
NOT_IN_FUNCTION=(maskbank/{cli.py,evaluation,jobs,serving,training})

# ---- arguments ----

variant=auto platform=local weights=${MASKBANK_WEIGHTS:-} redis='' registry=${NUCTL_REGISTRY:-} namespace=${NUCTL_NAMESPACE:-} stage=''
dry_run=false

while (($#)); do
    case $1 in
        -h | --help) usage; exit 0 ;;
        auto | cpu | gpu) variant=$1 ;;
        --dry-run) dry_run=true ;;
        --platform | --weights | --redis | --registry | --namespace | --stage)
            [[ ${2:-} && $2 != -* ]] || misused "$1 needs a value."
            printf -v "${1#--}" %s "$2"
            shift
            ;;
        *) misused "I do not know the argument '$1'." ;;
    esac
    shift
done

[[ $platform == local || $platform == kube ]] || misused "--platform is local or kube, not '$platform'."
[[ -z $redis || $redis =~ ^[A-Za-z0-9._-]+:[0-9]+$ ]] || misused "--redis is HOST:PORT, not '$redis'."
[[ -z $weights || -f $weights ]] || misused "There is no weights file '$weights'."
if [[ $platform == kube && -z $registry && -z $stage ]]; then
    misused "--platform kube needs --registry: the cluster pulls the image from there."
fi
if [[ -z $namespace ]]; then
    if [[ $platform == kube ]]; then namespace=default; else namespace=nuclio; fi
fi

# Paths are the caller's; everything below runs in the repository.
[[ -z $weights || $weights == /* ]] || weights=$PWD/$weights
[[ -z $stage || $stage == /* ]] || stage=$PWD/$stage
cd "$(dirname "${BASH_SOURCE[0]}")"

# ---- small tools ----

# Prints a command so that it can be pasted into a shell; passwords are not shown.
show() {
    local arg line='+'
    for arg in "$@"; do
        case $arg in *PASSWORD=* | *=*://*@*) arg="${arg%%=*}=<hidden>" ;; esac
        [[ $arg =~ ^[A-Za-z0-9_./:=@%,+-]+$ ]] || arg="'${arg//\'/\'\\\'\'}'"
        line+=" $arg"
    done
    echo "$line"
}

run() {
    show "$@"
    "$dry_run" || "$@"
}

have() { command -v "$1" >/dev/null 2>&1; }

# Puts the function's files into $1, which is new or empty: nuctl packs the whole folder it is given.
stage_files() {
    run mkdir -p "$1"
    run cp "${FUNCTION_FILES[@]}" "$1/"
    run cp -R maskbank "$1/"
    run mkdir "$1/weights"
    run cp "${weights:-weights/lite.safetensors}" "$1/weights/"
    run cp weights/MODEL_CARD.md "$1/weights/"
    run rm -rf "${NOT_IN_FUNCTION[@]/#/$1/}"
    run find "$1" -name __pycache__ -prune -exec rm -rf '{}' +
}

# The settings of the function, as lines NAME=VALUE.
settings() {
    local name
    if [[ $weights ]]; then export MASKBANK_WEIGHTS=/opt/nuclio/weights/${weights##*/}; fi
    for name in $(compgen -e MASKBANK_); do echo "$name=${!name}"; done
}

# Writes the settings into the configurations in $1, for those who deploy them without this script.
write_settings() {
    local setting value config line text entries=''
    while IFS= read -r setting; do
        value=${setting#*=}
        entries+="    - {name: ${setting%%=*}, value: '${value//\'/\'\'}'}"$'\n'
    done < <(settings)
    for config in "$1"/function{,-gpu}.yaml; do
        text=''
        while IFS= read -r line; do
            text+=$line$'\n'
            if [[ $line == '  env:' ]]; then text+=$entries; fi
        done <"$config"
        printf %s "$text" >"$config"
    done
}

if [[ $stage ]]; then
    if [[ -e $stage && -n $(ls -A "$stage") ]]; then fail "--stage: $stage is not an empty folder."; fi
    stage_files "$stage"
    "$dry_run" || write_settings "$stage"
    "$dry_run" || note "the function's files are in $stage."
    exit 0
fi

# ---- what must be there ----

check_tools() {
    local missing=()
    have nuctl || missing+=("nuctl, Nuclio's command line. Take the version of the image nuclio/dashboard in CVAT's\
 components/serverless/docker-compose.serverless.yml from https://github.com/nuclio/nuclio/releases,\
 make it executable and call it nuctl in a folder of your PATH (say /usr/local/bin).")
    if ! have docker; then
        missing+=("docker, which builds the image. Install it: https://docs.docker.com/engine/install/")
    elif ! docker info >/dev/null 2>&1; then
        missing+=("a Docker engine that answers ('docker info' fails). Start it (sudo systemctl start docker, or\
 Docker Desktop), or allow your user to use it (sudo usermod -aG docker \"\$USER\", then log in again).")
    fi
    if [[ $platform == kube ]] && ! have kubectl; then
        missing+=("kubectl, which reaches your cluster. Install it: https://kubernetes.io/docs/tasks/tools/")
    fi
    ((${#missing[@]} == 0)) || fail "missing: $(printf '\n  * %s' "${missing[@]}")"
}

# CVAT in Docker: its network must exist, and nuctl should be of its Nuclio's version.
check_cvat() {
    local image version
    docker network inspect "$network" >/dev/null 2>&1 || fail "Docker has no network '$network', so CVAT does not run\
 here. Start it in CVAT's folder: docker compose -f docker-compose.yml -f\
 components/serverless/docker-compose.serverless.yml up -d. If your network has another name, set CVAT_NETWORK."
    image=$(docker inspect --format '{{.Config.Image}}' nuclio 2>/dev/null) || {
        note "warning: no container 'nuclio' runs; CVAT needs it (docker-compose.serverless.yml) to see the function."
        return
    }
    version=${image##*:} version=${version%%-*}
    if [[ $(nuctl version 2>/dev/null) != *"$version"* ]]; then
        note "warning: CVAT runs Nuclio $version and your nuctl is of another version, which often fails."
    fi
}

has_gpu() {
    if [[ $platform == kube ]]; then
        [[ $(kubectl get nodes -o 'jsonpath={.items[*].status.allocatable.nvidia\.com/gpu}') =~ [1-9] ]]
    else
        { have nvidia-smi && nvidia-smi -L >/dev/null 2>&1; } || return 1
        [[ $(docker info --format '{{json .Runtimes}}') == *nvidia* ]] && return
        note "this machine has a GPU, but Docker has no runtime 'nvidia': install the NVIDIA Container Toolkit" \
            "to use it, or insist with ./deploy.sh gpu."
        return 1
    fi
}

network=${CVAT_NETWORK:-cvat_cvat}
if "$dry_run"; then
    if [[ $variant == auto ]]; then note "a dry run does not look for a GPU and shows the cpu variant."; variant=cpu; fi
else
    check_tools
    if [[ $platform == local ]]; then check_cvat; fi
    if [[ $variant == auto ]]; then if has_gpu; then variant=gpu; else variant=cpu; fi; fi
fi
note "deploying the $variant variant on $platform."

if [[ $variant == gpu ]]; then
    config=function-gpu.yaml torch_index=${TORCH_INDEX:-https://download.pytorch.org/whl/cu129}
else
    config=function.yaml torch_index=${TORCH_INDEX:-https://download.pytorch.org/whl/cpu}
fi

# ---- project and base image ----

nuctl_here=(--platform "$platform" --namespace "$namespace")

# On Kubernetes nuctl refuses to create a project that exists.
if "$dry_run" || [[ $(nuctl get project cvat "${nuctl_here[@]}" 2>/dev/null) != *cvat* ]]; then
    run nuctl create project cvat "${nuctl_here[@]}"
fi

base_image=cvat.$NAME.base:$variant
run docker build --tag "$base_image" --build-arg "TORCH_INDEX=$torch_index" .

# ---- the function ----

if "$dry_run"; then
    staging=/tmp/maskbank-function
else
    staging=$(mktemp -d "${TMPDIR:-/tmp}/maskbank-function.XXXXXX")
    trap 'rm -rf "$staging"' EXIT
fi
stage_files "$staging"

deploy=(
    nuctl deploy --project-name cvat --path "$staging" --file "$staging/$config" "${nuctl_here[@]}"
    --base-image "$base_image"
)
if [[ $platform == local ]]; then
    deploy+=(--platform-config "{\"attributes\": {\"network\": \"$network\"}}")
fi
if [[ $registry ]]; then deploy+=(--registry "$registry"); fi

# CVAT's scripts offer its Kvrocks to every function; so do we, where it runs.
kvrocks=cvat_redis_ondisk
if [[ -z $redis && $platform == local ]]; then
    if "$dry_run" || docker inspect "$kvrocks" >/dev/null 2>&1; then redis=$kvrocks:6666; fi
fi
if [[ $redis ]]; then
    deploy+=(--env "CVAT_FUNCTIONS_REDIS_HOST=${redis%:*}" --env "CVAT_FUNCTIONS_REDIS_PORT=${redis##*:}")
    if [[ ${CVAT_FUNCTIONS_REDIS_PASSWORD:-} ]]; then
        deploy+=(--env "CVAT_FUNCTIONS_REDIS_PASSWORD=$CVAT_FUNCTIONS_REDIS_PASSWORD")
    fi
fi

while IFS= read -r setting; do deploy+=(--env "$setting"); done < <(settings)

run "${deploy[@]}"

# ---- ready? ----

if [[ $platform == kube ]]; then
    workload=deployment/nuclio-$NAME
    inside=(kubectl --namespace "$namespace" exec -i "$workload" --)
    logs=(kubectl --namespace "$namespace" logs --tail 30 "$workload")
else
    workload=nuclio-$namespace-$NAME
    inside=(docker exec -i "$workload")
    logs=(docker logs --tail 30 "$workload")
fi

not_working() {
    "${logs[@]}" >&2 || true
    fail "$1 The last lines of its log are above; see more with: ${logs[*]}"
}

wait_until_ready() {
    if [[ $platform == kube ]]; then
        run kubectl --namespace "$namespace" rollout status "$workload" --timeout "${READY_SECONDS}s"
        return
    fi
    # Nuclio gives its images a health check; a container without one can only be seen to run.
    local waited=0 status='{{if .State.Health}}{{.State.Health.Status}}{{else}}{{.State.Status}}{{end}}'
    local look=(docker inspect --format "$status" "$workload")
    show "${look[@]}"
    until "$dry_run" || [[ $("${look[@]}" 2>/dev/null) =~ ^(healthy|running)$ ]]; do
        ((waited++ < READY_SECONDS)) || return 1
        sleep 1
    done
}

# Runs inside the function's container, so it needs no open port: outlines an object on a small image as CVAT
# would, then asks for it on the same image again.
try_out() {
    cat <<'EOF'
import base64, io, json, sys, urllib.error, urllib.request
from PIL import Image

picture = Image.new("RGB", (64, 48), "gray")
picture.paste("white", (16, 12, 48, 36))
file = io.BytesIO()
picture.save(file, "PNG")
image = base64.b64encode(file.getvalue()).decode()

# A mask is its run lengths (background first), then left, top, right, bottom: here a full box.
mask = {"type": "mask", "points": [0, 32 * 24, 16, 12, 47, 35]}

def ask(shapes, states):
    body = json.dumps({"image": image, "shapes": shapes, "states": states}).encode()
    request = urllib.request.Request(sys.argv[1], body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            reply = json.load(response)
    except urllib.error.HTTPError as error:
        sys.exit(f"The function answered {error.code}: {error.read().decode(errors='replace')}")
    except (OSError, ValueError) as error:
        sys.exit(f"The function did not answer properly: {error}")
    if not isinstance(reply, dict) or [len(reply.get(k) or ()) for k in ("shapes", "states")] != [1, 1]:
        sys.exit(f"The function should have answered one shape and one state, but answered: {reply}")
    return reply

first = ask([mask], [])
ask([None], first["states"])
print("A mask was outlined and tracked.")
EOF
}

wait_until_ready || not_working "The function is not ready after $READY_SECONDS s."
run "${inside[@]}" python - http://127.0.0.1:8080 < <(try_out) ||
    not_working "The function runs, but its trial failed."

if "$dry_run"; then exit 0; fi
cat <<EOF

MaskBank is deployed. In CVAT, open a job and choose AI tools > Trackers > AI tracker.
  its log:    ${logs[*]}
  update it:  run this script again
  remove it:  nuctl delete function $NAME ${nuctl_here[*]}
EOF
