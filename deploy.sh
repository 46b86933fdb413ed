#!/usr/bin/env bash
# Deploys MaskBank as a Nuclio function where CVAT finds it, and proves with a request that it works.
set -euo pipefail

usage() {
    cat <<'EOF'
Usage: ./deploy.sh [auto|cpu|gpu] [options]

  auto                   gpu if this machine and its Docker (or the cluster) offer an NVIDIA GPU, else cpu (default)
  --platform local|kube  CVAT in Docker on this machine (default), or in Kubernetes
  --weights FILE         use this checkpoint instead of the bundled weights ($MASKBANK_WEIGHTS also does)
  --workers N            Python processes in a container (default: one for every two cores and 2 GiB of this machine,
                         2 to 8; gpu, kube: 2)
  --cpus N               cores that a container may use (default: all; kube: 2 for each worker)
  --replicas N|MIN-MAX   containers on Kubernetes; MIN-MAX follows their CPU load (default 1)
  --redis HOST:PORT      the Redis or Kvrocks that the function may use (local: CVAT's own, if it runs)
  --redis-secret NAME:KEY  where a Kubernetes secret holds its password
  --registry URL         where the image is pushed; needed for kube ($NUCTL_REGISTRY also does;
                         $NUCTL_RUN_REGISTRY, if the cluster pulls it by another address)
  --namespace NAME       Nuclio's namespace (local: nuclio, kube: default; $NUCTL_NAMESPACE also does)
  --port open|closed     local: whether this machine's network reaches the function (default open); closed needs
                         CVAT_NUCLIO_INVOKE_METHOD=dashboard in CVAT
  --outline yes|no       whether CVAT also gets the interactor "AI outline": the same image a second time, on Kubernetes
                         on the CPU (default no)
  --spec FILE            YAML with more fields for `spec` in function.yaml (tolerations, volumes, ...)

  --rollback             put back the image and the settings of the deployment before
  --build-only           build the image and deploy nothing; needs no CVAT on this machine
  --image IMAGE          deploy an image that an earlier call has built, and build none
  --no-pull              build with the images that are on this machine, and ask no registry for any
  --stage DIR            only put the function's files into DIR, for CVAT's own serverless/deploy_*.sh
  --dry-run              print what was chosen and every command, and run none; needs neither nuctl nor Docker
  -h, --help             show this text

MASKBANK_* variables in your environment become settings of the function, for example
  MASKBANK_MODEL=afb-urr-paper ./deploy.sh gpu --weights weights/afb-urr.pth
Also read: CVAT_NETWORK (default cvat_cvat), CVAT_FUNCTIONS_REDIS_PASSWORD, READY_SECONDS, TORCH_INDEX (PyTorch's
wheel index).

What was chosen is kept in deploy.env as soon as it works, and holds for later calls, so that `git pull && ./deploy.sh`
changes nothing but MaskBank. Arguments come before the environment, and both before the file. To take a choice back,
delete its line there; a setting can also be emptied: MASKBANK_SIZE= ./deploy.sh

The old function goes on while the new image is built. Kubernetes keeps it until the new one is ready (except with a GPU);
on one machine the new image first has to load settings and weights, then nuctl removes the old function, so that it is
away for the seconds of a start.
EOF
}

note() { echo "deploy.sh: $*" >&2; }
fail() { note "$@"; exit 1; }
misused() { note "$@"; usage >&2; note "$@"; exit 2; } # twice: the usage is longer than many a screen

NAME=maskbank # metadata.name in function.yaml

# What main.py and model_handler.py need at run time; everything else stays out of the image.
FUNCTION_FILES=(main.py model_handler.py function.yaml function-gpu.yaml requirements.txt requirements.lock LICENSE)
NOT_IN_FUNCTION=(maskbank/{cli,evaluation,jobs,proposals,review,serving,training})

# What deploy.env may hold beside MASKBANK_*. PYTHON_IMAGE and TORCH_WHEEL are what was downloaded at first, TRACKER_PORT
# and OUTLINE_PORT what was free then.
CHOICES=(VARIANT PLATFORM WORKERS CPUS REPLICAS REDIS REDIS_SECRET CVAT_FUNCTIONS_REDIS_PASSWORD REGISTRY RUN_REGISTRY
    NAMESPACE PORT TRACKER_PORT OUTLINE_PORT OUTLINE SPEC CVAT_NETWORK READY_SECONDS TORCH_INDEX PYTHON_IMAGE TORCH_WHEEL)

# ---- arguments ----

# The environment's variables of these names belong to others.
unset VARIANT PLATFORM WORKERS CPUS REPLICAS REDIS REDIS_SECRET REGISTRY RUN_REGISTRY NAMESPACE PORT OUTLINE SPEC
unset TRACKER_PORT OUTLINE_PORT PYTHON_IMAGE TORCH_WHEEL
for name in REGISTRY RUN_REGISTRY NAMESPACE; do
    theirs=NUCTL_$name
    if [[ ${!theirs+given} ]]; then
        printf -v "$name" %s "${!theirs}"
        unset "$theirs" # nuctl gets them as arguments
    fi
done

stage='' image='' before='' rollback=false build_only=false no_pull=false dry_run=false arguments=("$@")

while (($#)); do
    case $1 in
        -h | --help) usage; exit 0 ;;
        auto | cpu | gpu) VARIANT=$1 ;;
        --rollback) rollback=true ;;
        --build-only) build_only=true ;;
        --no-pull) no_pull=true ;;
        --dry-run) dry_run=true ;;
        --*)
            case $1 in
                --weights) name=MASKBANK_WEIGHTS ;;
                --image | --stage) name=${1#--} ;;
                --platform | --workers | --cpus | --replicas | --redis | --redis-secret | --registry | --namespace \
                    | --port | --outline | --spec) name=$(tr 'a-z-' 'A-Z_' <<<"${1#--}") ;;
                *) misused "I do not know the argument '$1'." ;;
            esac
            [[ ${2:-} && $2 != -* ]] || misused "$1 needs a value."
            printf -v "$name" %s "$2"
            shift
            ;;
        *) misused "I do not know the argument '$1'." ;;
    esac
    shift
done

# The file that path $1 leads to; not every system has `readlink -f`.
target_of() {
    local path=$1 link
    while [[ -L $path ]]; do
        link=$(readlink "$path")
        [[ $link == /* ]] || link=$(dirname -- "$path")/$link
        path=$link
    done
    echo "$path"
}

# Paths are the caller's; everything below runs in the repository.
for name in MASKBANK_WEIGHTS MASKBANK_INTERACTOR_WEIGHTS SPEC stage; do
    if [[ ${!name-} && ${!name} != /* ]]; then printf -v "$name" %s "$PWD/${!name}"; fi
done
CDPATH='' cd -- "$(dirname -- "$(target_of "${BASH_SOURCE[0]}")")" >/dev/null
# What lies in the repository may move with it.
for name in MASKBANK_WEIGHTS MASKBANK_INTERACTOR_WEIGHTS SPEC; do
    if [[ ${!name-} ]]; then printf -v "$name" %s "${!name#"$PWD/"}"; fi
done

# ---- the choices: from this call, and from deploy.env ----

KEPT=deploy.env
# What works now and what worked before: in current/ and previous/ an image, its settings and choices; and in next/ what
# is being deployed, or has failed.
DEPLOYED=.deployed

# The names of all MASKBANK_* variables that are set, exported or not.
settings_named() { compgen -v MASKBANK_ || true; }

# Sets the choices that are written in file $1 and not yet made.
read_choices() {
    local line name number=0
    while IFS= read -r line || [[ $line ]]; do
        ((++number))
        line=${line%$'\r'}
        [[ $line && $line != '#'* ]] || continue
        name=${line%%=*}
        if [[ $line != *=* || " ${CHOICES[*]} " != *" $name "* && ! $name =~ ^MASKBANK_[A-Z_]+$ ]]; then
            fail "$1, line $number, is not NAME=VALUE with a name that I know: '$name'."
        fi
        if [[ $name =~ ^(PLATFORM|NAMESPACE)$ && ${!name-} && $line != "$name=${!name}" ]]; then
            fail "$1 is of a deployment with $line. To begin another one, move $1 and $DEPLOYED away."
        fi
        [[ ${!name+made} ]] || printf -v "$name" %s "${line#*=}"
    done <"$1"
}

# The choices that are made, as lines NAME=VALUE.
choices() {
    local name
    for name in "${CHOICES[@]}" $(settings_named); do
        if [[ ${!name-} ]]; then echo "$name=${!name}"; fi
    done
}

# The same line, but for what it would give away.
without_secret() {
    case $1 in
        *PASSWORD=* | *TOKEN=* | *=*://*@*) echo "${1%%=*}=<hidden>" ;;
        *) echo "$1" ;;
    esac
}

keep_choices() {
    (
        umask 077
        {
            echo "# What ./deploy.sh was told, for its next call; see ./deploy.sh --help. It may hold passwords."
            choices
        } >"$1.tmp"
        mv "$1.tmp" "$(target_of "$1")"
    )
}

given_workers=${WORKERS-}
if "$rollback"; then
    for name in ${arguments[@]+"${arguments[@]}"}; do
        [[ $name == --rollback || $name == --dry-run ]] || misused "--rollback takes all from the deployment before."
    done
    # After a deployment or a rollback that failed, the one before is the one that is noted as current.
    before=$DEPLOYED/previous
    if [[ -d $DEPLOYED/next ]]; then before=$DEPLOYED/current; fi
    [[ -d $before ]] || fail "there is no earlier deployment to go back to."
    unset "${CHOICES[@]}"
    for name in $(settings_named); do unset "$name"; done
    read_choices "$before/$KEPT"
elif [[ -f $KEPT ]]; then
    read_choices "$KEPT"
fi

: "${WORKERS:=}" "${CPUS:=}" "${REPLICAS:=}" "${REDIS:=}" "${REDIS_SECRET:=}" "${REGISTRY:=}" "${RUN_REGISTRY:=}"
: "${SPEC:=}" "${READY_SECONDS:=}" "${TORCH_INDEX:=}" "${PYTHON_IMAGE:=}" "${TORCH_WHEEL:=}"
: "${TRACKER_PORT:=}" "${OUTLINE_PORT:=}"
: "${VARIANT:=auto}" "${PLATFORM:=local}" "${PORT:=open}" "${OUTLINE:=no}" "${CVAT_NETWORK:=cvat_cvat}"
if [[ $PLATFORM == kube ]]; then : "${NAMESPACE:=default}"; else : "${NAMESPACE:=nuclio}"; fi
weights=${MASKBANK_WEIGHTS:-}

one_of() { [[ $2 =~ ^($3)$ ]] || misused "$1 is ${3//|/ or }, not '$2'."; }
whole() { [[ -z $2 || $2 =~ ^[1-9][0-9]{0,3}$ ]] || misused "$1 is a whole number from 1 to 9999, not '$2'."; }

# Ends the script with a sentence where a choice cannot be.
check_choices() {
    local name line written
    for name in "${CHOICES[@]}" $(settings_named); do
        # A line break would begin another line of deploy.env and of function.yaml.
        [[ ${!name-} != *[[:cntrl:]]* ]] || misused "$name has a line break or another control character in it."
    done
    if [[ $PLATFORM == local && -z $stage ]]; then
        for name in CVAT_FUNCTIONS_REDIS_PASSWORD $(settings_named); do
            # nuctl puts them between such quotes in a line for the shell, when the old function is gone already.
            [[ ${!name-} != *\'* ]] || misused "$name has a ' in it, which nuctl cannot pass on; in an address, %27 means the same."
        done
    fi
    for name in $(settings_named); do
        grep -q "name: $name," function.yaml || misused "There is no setting $name."
    done
    one_of VARIANT "$VARIANT" 'auto|cpu|gpu'
    one_of --platform "$PLATFORM" 'local|kube'
    one_of --port "$PORT" 'open|closed'
    one_of --outline "$OUTLINE" 'yes|no'
    whole --workers "$WORKERS"
    whole --cpus "$CPUS"
    whole READY_SECONDS "$READY_SECONDS"
    for name in TRACKER_PORT OUTLINE_PORT; do
        [[ ${!name} =~ ^([1-9][0-9]{0,4})?$ && ${!name:-1} -le 65535 ]] || misused "$name is a port, 1 to 65535, not '${!name}'."
    done
    [[ ${MASKBANK_DEVICE:-auto} =~ ^(auto|cpu|cuda(:[0-9]+)?)$ ]] \
        || misused "MASKBANK_DEVICE is auto, cpu, cuda or cuda:N, not '$MASKBANK_DEVICE'."
    if [[ $REPLICAS ]]; then
        if [[ ! $REPLICAS =~ ^[1-9][0-9]{0,3}(-[1-9][0-9]{0,3})?$ ]] || ((${REPLICAS%-*} > ${REPLICAS#*-})); then
            misused "--replicas is N or MIN-MAX, not '$REPLICAS'."
        fi
    fi
    [[ -z $REDIS || $REDIS =~ ^[A-Za-z0-9._-]+:[0-9]+$ ]] || misused "--redis is HOST:PORT, not '$REDIS'."
    [[ -z $REDIS_SECRET || $REDIS_SECRET =~ ^[A-Za-z0-9.-]+:[A-Za-z0-9._-]+$ ]] \
        || misused "--redis-secret is NAME:KEY, not '$REDIS_SECRET'."
    [[ -z $weights || -f $weights ]] || misused "There is no weights file '$weights'."
    [[ -z $SPEC || -f $SPEC ]] || misused "There is no file '$SPEC'."
    if [[ $PLATFORM == local && ($REPLICAS || $REDIS_SECRET) ]]; then
        misused "--replicas and --redis-secret are for --platform kube."
    fi
    if [[ $PLATFORM == kube && $PORT == closed ]]; then misused "--port is for --platform local."; fi
    if [[ $PLATFORM == kube && -z $REGISTRY && -z $stage && -z $image ]]; then
        misused "--platform kube needs --registry: the cluster pulls the image from there."
    fi
    if [[ ${REPLICAS#*-} -gt 1 && -z $REDIS && -z ${MASKBANK_STORE:-} ]]; then
        misused "--replicas needs --redis or MASKBANK_STORE: a store that all of them reach."
    fi
    if [[ $SPEC ]]; then
        written='env|triggers|build|handler|runtime|image|replicas|minReplicas|maxReplicas|readinessTimeoutSeconds|platform'
        while IFS= read -r line; do
            [[ ! $line =~ ^($written): ]] || misused "$SPEC must not hold '${BASH_REMATCH[1]}', which deploy.sh writes itself."
        done <"$SPEC"
    fi
}

if ! "$rollback"; then check_choices; fi # what is put back has worked, perhaps with another version's settings

# What follows from the choices, and is not kept with them: it would stay when they change.
torch_index=$TORCH_INDEX cpus=$CPUS
if [[ $PLATFORM == kube ]]; then ready_seconds=${READY_SECONDS:-900}; else ready_seconds=${READY_SECONDS:-180}; fi

# ---- small tools ----

# Prints a command so that it can be pasted into a shell; passwords are not shown.
show() {
    local arg line='+'
    for arg in "$@"; do
        arg=$(without_secret "$arg")
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

# The bundled interactor whose terms are the tracker's: weights that were trained from others name it
# (maskbank/networks/weights.py).
interactor_named() {
    local name
    for name in interactor interactor-open; do
        if [[ -f $weights ]] && LC_ALL=C grep -aqF "\"interactor\":\"$name\"" "$weights"; then echo "$name"; fi
    done
}

# The weights of the network that finds objects in boxes: unless chosen, those whose terms are the tracker's.
interactor_weights() {
    local open=''
    if [[ ${weights##*/} == lite-open.safetensors || $(interactor_named) == interactor-open ]]; then open=-open; fi
    echo "${MASKBANK_INTERACTOR_WEIGHTS:-weights/interactor$open.safetensors}"
}

# Puts the function's files into $1, which is new or empty: nuctl packs the whole folder it is given.
stage_files() {
    run mkdir -p "$1"
    run cp "${FUNCTION_FILES[@]}" "$1/"
    run cp -R maskbank "$1/"
    run mkdir "$1/weights"
    run cp "${weights:-weights/lite.safetensors}" "$(interactor_weights)" "$1/weights/"
    run cp weights/MODEL_CARD.md weights/LICENSE "$1/weights/"
    run rm -rf "${NOT_IN_FUNCTION[@]/#/$1/}"
    run find "$1" -name __pycache__ -prune -exec rm -rf '{}' +
    run chmod -R a+rX,u+w "$1" # in the image they are root's, and the function is another user
}

# Ten digits that stand for what stage_files would put into a folder, and for the base image that it goes on.
digest_of_files() {
    local skipped=() file sum
    for file in "${NOT_IN_FUNCTION[@]}"; do skipped+=(-path "$file" -o); done
    sum=$(
        {
            printf '%s\n' "$PYTHON_IMAGE" "$torch_index" "$TORCH_WHEEL" base.Dockerfile
            "$dry_run" || nuctl version # which adds its own part to the image
            printf '%s\n' "${FUNCTION_FILES[@]}" weights/MODEL_CARD.md weights/LICENSE \
                "${weights:-weights/lite.safetensors}" "$(interactor_weights)"
            find maskbank \( "${skipped[@]}" -name __pycache__ \) -prune -o -type f -print | LC_ALL=C sort
        } | while IFS= read -r file; do
            echo "$file"
            [[ ! -f $file ]] || cat "$file"
        done | if have sha256sum; then sha256sum; else shasum -a 256; fi
    )
    echo "${sum:0:10}"
}

quoted() { echo "'${1//\'/\'\'}'"; }

# The function's environment variables, as lines NAME=VALUE; a password that Kubernetes keeps is not among them.
environment() {
    local name
    for name in $(settings_named); do
        if [[ ${!name} && $name == *_WEIGHTS ]]; then
            echo "$name=/opt/nuclio/weights/${!name##*/}"
        elif [[ ${!name} ]]; then
            echo "$name=${!name}"
        fi
    done
    # CVAT's own scripts name its Redis themselves.
    [[ $REDIS && -z $stage ]] || return 0
    echo "CVAT_FUNCTIONS_REDIS_HOST=${REDIS%:*}"
    echo "CVAT_FUNCTIONS_REDIS_PORT=${REDIS##*:}"
    name=CVAT_FUNCTIONS_REDIS_PASSWORD
    if [[ ${!name:-} && -z $REDIS_SECRET ]]; then echo "$name=${!name}"; fi
}

# The same as lines of YAML, with where Kubernetes keeps the password.
environment_entries() {
    local line
    while IFS= read -r line; do
        echo "    - {name: ${line%%=*}, value: $(quoted "${line#*=}")}"
    done < <(environment)
    [[ $REDIS && -z $stage && $REDIS_SECRET ]] || return 0
    line="{secretKeyRef: {name: ${REDIS_SECRET%:*}, key: ${REDIS_SECRET##*:}}}"
    echo "    - {name: CVAT_FUNCTIONS_REDIS_PASSWORD, valueFrom: $line}"
}

# A worker takes up to 2 GiB beside its cache of banks, and on a GPU another 2 for CUDA; see function.yaml.
resource_entries() { # of the variant $1
    local base=2048 rest=1024 cache=${MASKBANK_CACHE_MB:-2048} request=$WORKERS
    if [[ $1 == gpu ]]; then base=4096 rest=2048; fi
    [[ $cache =~ ^[0-9]+$ ]] || cache=2048
    if [[ $cpus ]] && ((cpus < request)); then request=$cpus; fi
    printf '    requests:\n      cpu: %s\n      memory: %sMi\n' "$request" $((WORKERS * rest))
    printf '    limits:\n      memory: %sMi\n' $((WORKERS * (base + 10#$cache)))
    [[ -z $cpus ]] || echo "      cpu: $cpus"
    [[ $1 != gpu ]] || echo "      nvidia.com/gpu: 1"
}

# Prints function.yaml (or function-gpu.yaml, for the variant $1) with all that was chosen; `build` stays if $2 is so.
configured() {
    local line key='' skip=false variables own=' '
    variables=$(environment_entries)
    if [[ $SPEC ]]; then own=" $({ grep -oE '^[A-Za-z]+:' "$SPEC" || true; } | tr '\n' ' ')"; fi
    while IFS= read -r line; do
        if [[ $line =~ ^( *)([A-Za-z]+): && ${#BASH_REMATCH[1]} -le 2 ]]; then
            key=${BASH_REMATCH[2]} skip=false
            if [[ $own == *" $key: "* || $key == build && $2 != build ]]; then skip=true; fi
        fi
        if "$skip"; then continue; fi
        case $line in
            spec:)
                echo "$line"
                if [[ $SPEC ]]; then while IFS= read -r line || [[ $line ]]; do [[ $line == --- ]] || echo "  $line"; done <"$SPEC"; fi
                if [[ $REPLICAS ]]; then printf '  %s: %s\n' minReplicas "${REPLICAS%-*}" maxReplicas "${REPLICAS#*-}"; fi
                ;;
            '  env:')
                echo "$line"
                [[ -z $variables ]] || echo "$variables"
                ;;
            '    - {name: '*)
                line=${line#*name: }
                [[ $variables == *"{name: ${line%%,*},"* ]] || echo "    - {name: $line"
                ;;
            '  readinessTimeoutSeconds: '*) echo "  readinessTimeoutSeconds: $ready_seconds" ;;
            '      numWorkers: '* | '      maxWorkers: '*) echo "${line%: *}: $WORKERS" ;;
            '        maxRequestBodySize: '*)
                echo "$line"
                [[ $PORT == open ]] || echo "        disablePortPublishing: true"
                [[ $PORT != open || -z $TRACKER_PORT ]] || echo "        port: $TRACKER_PORT"
                ;;
            '  resources:')
                echo "$line"
                resource_entries "$1"
                skip=true
                ;;
            '      mountMode: '*)
                echo "$line"
                if [[ $PLATFORM == local && $2 != build ]]; then echo "      network: $(quoted "$CVAT_NETWORK")"; fi
                ;;
            *) echo "$line" ;;
        esac
    done <"$(file_of "$1")"
}

# Prints the configuration of the interactor: interactor.yaml with the `spec` of the function, but for one worker. On
# Kubernetes it computes on the CPU: a GPU there is one pod's, and a person clicks too seldom to keep one busy.
configured_outline() {
    local line description='' printing=true WORKERS=1 TRACKER_PORT=$OUTLINE_PORT cpus=$cpus variant=$VARIANT
    if [[ $PLATFORM == kube ]]; then
        local MASKBANK_DEVICE=cpu
        variant=cpu cpus=${CPUS:-2}
    fi
    while IFS= read -r line; do
        case $line in
            spec:) printing=false ;;
            '  description: '*) description=$line ;;
        esac
        if "$printing"; then echo "$line"; fi
    done <interactor.yaml
    printf '%s\n' spec: "$description"
    printing=true
    {
        while IFS= read -r line && [[ $line != spec: ]]; do :; done
        while IFS= read -r line; do
            if [[ $line =~ ^\ {0,2}([A-Za-z]+): ]]; then
                if [[ ${BASH_REMATCH[1]} == description ]]; then printing=false; else printing=true; fi
            fi
            if "$printing"; then echo "$line"; fi
        done
    } < <(configured "$variant" '')
}

file_of() { if [[ $1 == gpu ]]; then echo function-gpu.yaml; else echo function.yaml; fi; }

# On a GPU two workers keep it busy; on a CPU a worker uses two cores well, and 2 GiB.
default_workers() {
    local half gibibytes=16 kilobytes
    if [[ $1 == gpu || $PLATFORM == kube ]]; then echo 2; return; fi
    half=$(($(nproc 2>/dev/null || echo 4) / 2))
    if [[ -r /proc/meminfo ]]; then
        read -r _ kilobytes _ </proc/meminfo
        gibibytes=$((kilobytes >> 20))
    fi
    if ((half > gibibytes / 2)); then half=$((gibibytes / 2)); fi
    if ((half > 8)); then half=8; fi
    if ((half < 2)); then half=2; fi
    echo "$half"
}

# A number that was kept is for its variant: as many workers as suit a CPU would be as many CUDA processes on one GPU.
forget_workers_of_other_variant() {
    local kept=$DEPLOYED/current/$KEPT
    [[ -z $given_workers && -f $kept ]] || return 0
    if grep -qx "WORKERS=$WORKERS" "$kept" && ! grep -qx "VARIANT=$VARIANT" "$kept"; then
        note "the $WORKERS workers were for the other variant and are not kept; --workers chooses a number for this one."
        WORKERS=''
    fi
}

show_choices() {
    local line
    echo "chosen, and kept in deploy.env once it works:"
    while IFS= read -r line; do echo "  $(without_secret "$line")"; done < <(choices)
}

if [[ $stage ]]; then
    if [[ -e $stage && -n $(ls -A "$stage") ]]; then fail "--stage: $stage is not an empty folder."; fi
    : "${WORKERS:=2}"
    stage_files "$stage"
    if ! "$dry_run"; then
        for variant in cpu gpu; do
            configured $variant build >"$stage/$(file_of $variant)"
            chmod 600 "$stage/$(file_of $variant)" # it may hold passwords
        done
        note "the function's files are in $stage."
    fi
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
    if [[ $PLATFORM == kube ]] && ! have kubectl; then
        missing+=("kubectl, which reaches your cluster. Install it: https://kubernetes.io/docs/tasks/tools/")
    fi
    ((${#missing[@]} == 0)) || fail "missing: $(printf '\n  * %s' "${missing[@]}")"
}

# CVAT in Docker: its network must exist, and nuctl should be of its Nuclio's version.
check_cvat() {
    local image version
    docker network inspect "$CVAT_NETWORK" >/dev/null 2>&1 || fail "Docker has no network '$CVAT_NETWORK', so CVAT does not run\
 here. Start it in CVAT's folder: docker compose -f docker-compose.yml -f\
 components/serverless/docker-compose.serverless.yml up -d. If your network has another name, set CVAT_NETWORK."
    image=$(docker inspect --format '{{.Config.Image}}' nuclio 2>/dev/null) || {
        note "warning: no container 'nuclio' runs; CVAT needs it (docker-compose.serverless.yml) to see the function."
        return
    }
    version=${image%@*} version=${version##*:} version=${version%%-*}
    [[ $version =~ ^[0-9.]+$ ]] || return 0
    if [[ ! $(nuctl version 2>/dev/null) =~ (^|[^0-9.])"$version"([^0-9.]|$) ]]; then
        note "warning: CVAT runs Nuclio $version and your nuctl is of another version, which often fails."
    fi
}

# A function that was deployed before there was a deploy.env: its settings become choices, so that none is lost.
take_over_settings() {
    local line name
    while IFS= read -r line; do
        name=${line%%=*}
        [[ $name == MASKBANK_* && $line != MASKBANK_DEVICE=cuda && ! ${!name+made} ]] || continue
        if [[ $name == *_WEIGHTS ]]; then
            line=$name=weights/${line##*/}
            [[ -f ${line#*=} ]] || fail "the function that runs has the weights ${line##*/}: name that file with $name=FILE."
        fi
        printf -v "$name" %s "${line#*=}"
        note "taken over from the function that runs: $(without_secret "$line")"
    done < <(docker inspect --format '{{range .Config.Env}}{{println .}}{{end}}' "nuclio-$NAMESPACE-$NAME" 2>/dev/null)
    weights=${MASKBANK_WEIGHTS:-}
    check_choices
}

has_gpu() {
    if [[ $PLATFORM == kube ]]; then
        [[ $(kubectl get nodes -o 'jsonpath={.items[*].status.allocatable.nvidia\.com/gpu}') =~ [1-9] ]]
    else
        { have nvidia-smi && nvidia-smi -L >/dev/null 2>&1; } || return 1
        [[ $(docker info --format '{{json .Runtimes}}') == *nvidia* ]] && return
        note "this machine has a GPU, but Docker has no runtime 'nvidia': install the NVIDIA Container Toolkit" \
            "to use it, or insist with ./deploy.sh gpu."
        return 1
    fi
}

image_is_here() { docker image inspect "$image" >/dev/null 2>&1; }

# An image that was built elsewhere, or earlier.
check_given_image() {
    if [[ $image =~ :.*-(cpu|gpu)-[0-9a-f]+$ && ${BASH_REMATCH[1]} != "$VARIANT" ]]; then
        fail "the image $image is of the other variant: ./deploy.sh ${BASH_REMATCH[1]} --image $image deploys it."
    fi
    if [[ $PLATFORM == local ]] && ! "$dry_run" && ! image_is_here; then
        fail "there is no image $image on this machine: 'docker images cvat.maskbank' lists those that are here."
    fi
}

if "$dry_run"; then
    if [[ $VARIANT == auto ]]; then note "a dry run does not look for a GPU and shows the cpu variant."; VARIANT=cpu; fi
else
    check_tools
    if [[ $PLATFORM == local ]] && ! "$build_only"; then
        check_cvat
        # A first deployment that failed has left .deployed; its settings may be what is wrong.
        if [[ ! -f $KEPT && ! -d $DEPLOYED ]] && ! "$rollback"; then take_over_settings; fi
    fi
    if [[ $VARIANT == auto ]]; then if has_gpu; then VARIANT=gpu; else VARIANT=cpu; fi; fi
fi
if [[ $VARIANT == cpu && ${MASKBANK_DEVICE:-} == cuda* ]] && ! "$rollback" && ! "$dry_run"; then # which looks for no GPU
    misused "MASKBANK_DEVICE=$MASKBANK_DEVICE is for the gpu variant; an empty one takes it back: MASKBANK_DEVICE= ./deploy.sh cpu"
fi
if [[ $image ]]; then check_given_image; fi

# ---- deploying, and going back ----

outline=$NAME-outline # metadata.name in interactor.yaml
nuctl_here=(--platform "$PLATFORM" --namespace "$NAMESPACE")

# What follows is about function $1: its `workload`, how to run a command `inside` it, and how to read its `logs`.
turn_to() {
    if [[ $PLATFORM == kube ]]; then
        workload=deployment/nuclio-$1
        inside=(kubectl --namespace "$NAMESPACE" exec -i "$workload" --)
        logs=(kubectl --namespace "$NAMESPACE" logs --tail 30 "$workload")
    else
        workload=nuclio-$NAMESPACE-$1
        inside=(docker exec -i "$workload")
        logs=(docker logs --tail 30 "$workload")
    fi
}

turn_to "$NAME"

# Whether an earlier call has deployed the interactor, or tried to.
had_outline=false
for name in current next; do
    if grep -qsx OUTLINE=yes "$DEPLOYED/$name/$KEPT"; then had_outline=true; fi
done

not_working() {
    "${logs[@]}" >&2 || true
    # Where going back to that is what has failed, it is no advice.
    if [[ -d $DEPLOYED/current && $before != */current ]]; then
        note "./deploy.sh --rollback puts back what worked before."
    fi
    fail "$1 The last lines of its log are above; see more with: ${logs[*]}"
}

wait_until_ready() {
    if [[ $PLATFORM == kube ]]; then
        run kubectl --namespace "$NAMESPACE" rollout status "$workload" --timeout "${ready_seconds}s"
        return
    fi
    # Nuclio gives its images a health check; a container without one can only be seen to run.
    local waited=0 status='{{if .State.Health}}{{.State.Health.Status}}{{else}}{{.State.Status}}{{end}}'
    local look=(docker inspect --format "$status" "$workload")
    show "${look[@]}"
    until "$dry_run" || [[ $("${look[@]}" 2>/dev/null) =~ ^(healthy|running)$ ]]; do
        ((waited++ < ready_seconds)) || return 1
        sleep 1
    done
}

# Run inside the function's container, so they need no open port. With "cuda" as second argument, it must have computed
# there. Outlines an object on a small image as CVAT would, then asks for it on the same image again:
try_tracker() {
    trial
    cat <<'EOF'
# A mask is its run lengths (background first), then left, top, right, bottom: here a full box.
mask = {"type": "mask", "points": [0, 32 * 24, 16, 12, 47, 35]}

def ask(shapes, states):
    reply = get({"image": image, "shapes": shapes, "states": states})
    if [len(reply.get(k) or ()) for k in ("shapes", "states")] != [1, 1]:
        sys.exit(f"The function should have answered one shape and one state, but answered: {reply}")
    return reply

first = ask([mask], [])
ask([None], first["states"])
print(f"A mask was outlined and tracked, on '{device()}'.")
EOF
}

# Asks for the mask of the object in a box, as CVAT would:
try_outline() {
    trial
    cat <<'EOF'
reply = get({"image": image, "obj_bbox": [[16, 12], [47, 35]], "pos_points": [], "neg_points": []})
if not (reply.get("mask") and len(reply.get("bounds") or ()) == 4):
    sys.exit(f"The function should have answered a mask and its bounds, but answered: {reply}")
print(f"The object in a box was found, on '{device()}'.")
EOF
}

# What both begin with.
trial() {
    cat <<'EOF'
import base64, io, json, os, sys, urllib.error, urllib.request
from PIL import Image

picture = Image.new("RGB", (64, 48), "gray")
picture.paste("white", (16, 12, 48, 36))
file = io.BytesIO()
picture.save(file, "PNG")
image = base64.b64encode(file.getvalue()).decode()

headers = {"Content-Type": "application/json", "X-MaskBank-Token": os.environ.get("MASKBANK_TOKEN", "")}

def get(body=None):
    request = urllib.request.Request(sys.argv[1], body and json.dumps(body).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            reply = json.load(response)
    except urllib.error.HTTPError as error:
        sys.exit(f"The function answered {error.code}: {error.read().decode(errors='replace')}")
    except (OSError, ValueError) as error:
        sys.exit(f"The function did not answer properly: {error}")
    if not isinstance(reply, dict):
        sys.exit(f"The function should have answered an object, but answered: {reply}")
    return reply

def device():
    name = str(get().get("device"))
    if not name.startswith(sys.argv[2]):
        sys.exit(f"The function computed on '{name}', but should have done so on '{sys.argv[2]}'.")
    return name

EOF
}

# Runs inside a new image: what stops the function at its start, as far as it needs neither a GPU nor the store.
load() {
    cat <<'EOF'
import os, sys
from maskbank.networks.outliner import load_outliner
from maskbank.settings import read_settings
from maskbank.tracking.loading import load_tracker

try:
    settings = read_settings(os.environ)
    tracker, _ = load_tracker(settings)
    load_outliner(settings.interactor, tracker.device)
except ValueError as error:
    sys.exit(str(error))
EOF
}

# Ends the script, while the old function still runs, if the new image cannot load what it will have to.
try_loading() {
    local line command=(docker run --rm -i --network none --user maskbank --env MASKBANK_DEVICE=cpu)
    if [[ $cpus ]]; then command+=(--cpus "$cpus"); fi
    if [[ $VARIANT == gpu ]]; then command+=(--gpus all); fi
    (
        while IFS= read -r line; do
            [[ $line != MASKBANK_DEVICE=* ]] || continue
            export "${line?}"
            command+=(--env "${line%%=*}") # the name only: arguments are for everybody on the machine to see
        done < <(environment)
        run "${command[@]}" "$image" python - < <(load)
    ) || fail "The new image cannot start with these settings and weights, as it says above, so nothing was deployed."
}

# The port of this machine at which container $1 is published, if it is.
published_port() {
    local line
    line=$(docker port "$1" 8080/tcp 2>/dev/null) || return 0
    line=${line%%$'\n'*}
    echo "${line##*:}"
}

# Sets the choice $1 to the port at which function $2 will be published: the one that was chosen before, or that it has
# already, or a free one. Docker would choose another one at every start of the container, and CVAT go on with the first.
choose_port() {
    local port published
    published=$(published_port "nuclio-$NAMESPACE-$2")
    port=${!1:-$published}
    if [[ -z $port ]]; then
        port=30300 # below those that Docker chooses
        while is_taken "$port" || [[ $port == "$TRACKER_PORT" ]]; do ((++port)); done
    elif [[ $port != "$published" ]] && is_taken "$port"; then
        fail "another program has taken port $port of this machine; $1=PORT in $KEPT chooses another."
    fi
    printf -v "$1" %s "$port"
}

is_taken() { (: <"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# Deploys the image and the configurations in folder $1, and sees that they work. The interactor is removed where it is
# no longer wanted.
deploy() {
    local device=''
    trap interrupted INT TERM
    if [[ $VARIANT == gpu && ${MASKBANK_DEVICE:-cuda} != cpu ]]; then device=cuda; fi
    deploy_function "$NAME" "$1/function.yaml" try_tracker "$device"
    if [[ $PLATFORM == kube ]]; then device=''; fi
    if [[ $OUTLINE == yes ]]; then
        turn_to "$outline"
        deploy_function "$outline" "$1/outline.yaml" try_outline "$device"
        turn_to "$NAME"
    elif "$had_outline"; then
        run nuctl delete function "$outline" "${nuctl_here[@]}" \
            || note "warning: nuctl could not remove the interactor $outline, as it says above."
    fi
}

interrupted() {
    note "stopped while the function was being replaced, so it may be gone: ./deploy.sh goes on, --rollback goes back."
    exit 130
}

# Deploys function $1 with the configuration in file $2, and sees that it passes trial $3 on device $4.
deploy_function() {
    local it='The function'
    if [[ $1 == "$outline" ]]; then it='The tracker works. The interactor'; fi
    run nuctl deploy "$1" --project-name cvat --run-image "$image" --file "$2" "${nuctl_here[@]}" \
        || not_working "$it could not be deployed."
    wait_until_ready || not_working "$it is not ready after $ready_seconds s."
    run "${inside[@]}" python - http://127.0.0.1:8080 "$4" < <("$3") || not_working "$it runs, but its trial failed."
}

# Notes that what is in next/ works, and takes the place of what worked before.
next_works() {
    rm -rf "$DEPLOYED/previous"
    if [[ -d $DEPLOYED/current ]]; then mv "$DEPLOYED/current" "$DEPLOYED/previous"; fi
    mv "$DEPLOYED/next" "$DEPLOYED/current"
}

if "$rollback"; then
    image=$(<"$before/image")
    note "going back to $image and its settings."
    show_choices
    if [[ $PLATFORM == local ]] && ! "$dry_run" && ! image_is_here; then
        fail "the image $image is no longer on this machine: check out that version of MaskBank and deploy it."
    fi
    if [[ $before == */previous ]] && ! "$dry_run"; then cp -R "$before" "$DEPLOYED/next"; fi
    deploy "$before"
    if "$dry_run"; then exit 0; fi
    if [[ $before == */previous ]]; then next_works; else rm -rf "$DEPLOYED/next"; fi
    keep_choices "$KEPT"
    note "done; deploy.env has the settings of this deployment again."
    exit 0
fi

# ---- what is chosen where nobody chose ----

forget_workers_of_other_variant
: "${WORKERS:=$(default_workers "$VARIANT")}"
if [[ $PLATFORM == kube ]]; then : "${cpus:=$((2 * WORKERS))}"; fi
if [[ $VARIANT == gpu ]]; then : "${torch_index:=https://download.pytorch.org/whl/cu129}"; fi
: "${torch_index:=https://download.pytorch.org/whl/cpu}"

# CVAT's scripts offer its Kvrocks to every function; so do we, where it runs.
kvrocks=cvat_redis_ondisk
if [[ -z $REDIS && $PLATFORM == local ]]; then
    if "$dry_run" || docker inspect "$kvrocks" >/dev/null 2>&1; then REDIS=$kvrocks:6666; fi
fi

note "deploying the $VARIANT variant on $PLATFORM."
show_choices
named=$(interactor_named)
case ${named:-${weights##*/}} in
    '' | lite.safetensors | interactor)
        note "these weights are for research and non-commercial use (weights/LICENSE); others: --weights" \
            "weights/lite-open.safetensors."
        ;;
    afb-urr.pth) note "these weights are for academic use only (https://github.com/xmlyqing00/AFB-URR)." ;;
esac

# ---- the images ----

# Both are built while the old function goes on: on one machine nuctl removes it before it deploys the new one.
build_image() {
    local base=cvat.$NAME.base:$VARIANT tag version digest
    tag=$(grep -oE '^ARG PYTHON_IMAGE=.*' base.Dockerfile) tag=${tag#*=}
    if "$no_pull"; then
        PYTHON_IMAGE=$tag # an image that was loaded from a file has no digest
    elif [[ $PYTHON_IMAGE != "$tag@"* ]]; then
        run docker pull "$tag"
        PYTHON_IMAGE=$tag
        if ! "$dry_run"; then
            digest=$(docker image inspect --format '{{range .RepoDigests}}{{println .}}{{end}}' "$tag")
            digest=${digest%%$'\n'*}
            PYTHON_IMAGE=$tag${digest:+@${digest##*@}}
        fi
    fi
    run docker build --file base.Dockerfile --tag "$base" --build-arg "PYTHON_IMAGE=$PYTHON_IMAGE" \
        --build-arg "TORCH_INDEX=$torch_index" --build-arg "TORCH_WHEEL=$TORCH_WHEEL" .
    if ! "$dry_run"; then
        TORCH_WHEEL=$(docker run --rm "$base" cat /usr/local/share/torch.sha256)
        TORCH_WHEEL=${TORCH_WHEEL%%$'\n'*}
        note "torch is ${TORCH_WHEEL##* }, SHA-256 ${TORCH_WHEEL%% *}; a later build must get the same file."
    fi

    version=$(grep -oE '^__version__ = "[^"]+"' maskbank/__init__.py) version=${version#*\"}
    image=cvat.$NAME:${version%\"}-$VARIANT-$(digest_of_files)
    if "$dry_run"; then
        staging=/tmp/maskbank-function
    else
        staging=$(mktemp -d "${TMPDIR:-/tmp}/maskbank-function.XXXXXX")
        trap 'rm -rf "$staging"' EXIT
    fi
    stage_files "$staging"
    local build=(
        nuctl build "$NAME" --path "$staging" --file "$staging/$(file_of "$VARIANT")" --image "$image"
        --base-image "$base" "${nuctl_here[@]}"
    )
    if [[ $REGISTRY ]]; then build+=(--registry "$REGISTRY"); fi
    if "$no_pull"; then build+=(--no-pull); fi
    run "${build[@]}"
    local pulled_from=${RUN_REGISTRY:-$REGISTRY}
    if [[ $pulled_from ]]; then image=${pulled_from#*://}/$image; fi
}

# On Kubernetes nuctl refuses to create a project that exists.
if "$dry_run" || { ! "$build_only" && [[ $(nuctl get project cvat "${nuctl_here[@]}" 2>/dev/null) != *cvat* ]]; }; then
    run nuctl create project cvat "${nuctl_here[@]}"
fi

if [[ -z $image ]]; then build_image; fi
if "$build_only"; then
    note "the image is $image. To take it to another machine: docker save $image | gzip > maskbank.tar.gz; there" \
        "docker load < maskbank.tar.gz and ./deploy.sh $VARIANT --image $image${weights:+ --weights $weights}"
    exit 0
fi

# ---- the function ----

if [[ $PLATFORM == local ]]; then try_loading; fi
if "$dry_run"; then
    deploy "$DEPLOYED/next"
    exit 0
fi
if [[ $PLATFORM == local && $PORT == open ]]; then
    choose_port TRACKER_PORT "$NAME"
    if [[ $OUTLINE == yes ]]; then choose_port OUTLINE_PORT "$outline"; fi
fi
(umask 077 && mkdir -p "$DEPLOYED/next")
(umask 077 && configured "$VARIANT" '' >"$DEPLOYED/next/function.yaml")
if [[ $OUTLINE == yes ]]; then (umask 077 && configured_outline >"$DEPLOYED/next/outline.yaml"); fi
echo "$image" >"$DEPLOYED/next/image"
keep_choices "$DEPLOYED/next/$KEPT"
deploy "$DEPLOYED/next"
next_works
keep_choices "$KEPT"

cat <<EOF

MaskBank is deployed. In CVAT, open a job and choose AI tools > Trackers > AI tracker.
  its log:    ${logs[*]}
  update it:  git pull && ./deploy.sh
  remove it:  nuctl delete function $NAME ${nuctl_here[*]}; docs/admins.md says what else
EOF
if [[ -d $DEPLOYED/previous ]]; then echo "  undo this:  ./deploy.sh --rollback"; fi
if [[ $PLATFORM == local && $PORT == open ]]; then
    echo "  its port:   open to whoever reaches this machine ($TRACKER_PORT); docs/admins.md says how to close it"
elif [[ $PLATFORM == local && $(docker port "$workload") ]]; then
    note "warning: this version of Nuclio publishes the port all the same; docs/admins.md has another way to close it."
fi
if [[ $OUTLINE == yes ]]; then
    echo "  outline:    in CVAT, AI tools > Interactors > AI outline; to remove it: ./deploy.sh --outline no"
fi
