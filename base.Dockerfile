# The base image of the function: Python and the libraries, nothing of MaskBank itself. `./deploy.sh`
# builds it as cvat.maskbank.base:cpu or :gpu and lets Nuclio put the function's folder on top, so that
# changing code or weights never installs torch again. Without Nuclio: build it, mount the folder, run.
#
#   docker build -f base.Dockerfile -t cvat.maskbank.base:cpu .
#   docker build -f base.Dockerfile -t cvat.maskbank.base:gpu \
#       --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu129 .
#
# It is not called Dockerfile, for CVAT's deploy_cpu.sh builds every Dockerfile beside a function.yaml, under a
# name that it makes of the folder's; directly in serverless/ that name is none ("cvat...base").
#
# Size of the CPU image, estimated from the installed files (requirements.txt in a virtual environment):
#   150 MB  python:3.11.14-slim-bookworm
#   792 MB  torch (CPU build)     160 MB  OpenCV     75 MB  NumPy     82 MB  SymPy (torch needs it)
#    67 MB  everything else in requirements.txt
#   100 MB  added by Nuclio (processor, its wheels) and 13 MB by the weights
#   ≈ 1.46 GB, below the 2 GB that we allow. The CUDA build of torch adds some 5 to 6 GB (not measured).
#
# Every native library of these wheels needs only libc, libm, libstdc++, libgcc and zlib, which the slim
# image has (a test checks this): no apt-get, no X11, no CUDA image (torch's wheels carry CUDA's libraries;
# the driver comes from the host).

# deploy.sh adds the digest that it found when it pulled this image first, and keeps it in deploy.env.
ARG PYTHON_IMAGE=python:3.11.14-slim-bookworm
FROM ${PYTHON_IMAGE}

# The function runs as this user, see securityContext in function.yaml; the default store is in its home.
RUN useradd --uid 1000 --create-home maskbank

# Nuclio copies the function here.
WORKDIR /opt/nuclio

COPY requirements.txt requirements.lock /tmp/
RUN pip install --no-cache-dir --root-user-action=ignore --require-hashes --only-binary :all: -r /tmp/requirements.lock

# The build of torch comes from PyTorch's own index, and from no other. cu129 runs on Turing (sm_75) to Blackwell,
# with a CUDA 12 driver.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
# "SHA256  FILE" of torch's wheel, as an earlier build got it; where it is given, that file must be the same again.
ARG TORCH_WHEEL=
RUN mkdir /tmp/torch && cd /tmp/torch \
    && pip download --no-cache-dir --no-deps --only-binary :all: \
        --index-url "$TORCH_INDEX" "$(grep '^torch==' /tmp/requirements.txt)" \
    && sha256sum *.whl | tee /usr/local/share/torch.sha256 \
    && if [ -f "${TORCH_WHEEL#*  }" ]; then echo "$TORCH_WHEEL" | sha256sum --check; fi \
    && pip install --no-cache-dir --root-user-action=ignore --index-url "$TORCH_INDEX" ./*.whl \
    && rm -r /tmp/torch \
    && python -c "import cv2, numpy, PIL, prometheus_client, pycocotools, redis, safetensors, tenacity, torch; print('torch', torch.__version__)"
