# The base image of the function: Python and the libraries, nothing of MaskBank itself. `./deploy.sh`
# builds it as cvat.maskbank.base:cpu or :gpu and lets Nuclio put the function's folder on top, so that
# changing code or weights never installs torch again. Without Nuclio: build it, mount the folder, run.
#
#   docker build -t cvat.maskbank.base:cpu .
#   docker build -t cvat.maskbank.base:gpu --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu129 .
#
# Size of the CPU image, estimated from the installed files (requirements.txt in a virtual environment):
#   150 MB  python:3.11-slim
#   792 MB  torch (CPU build)     160 MB  OpenCV     75 MB  NumPy     82 MB  SymPy (torch needs it)
#    67 MB  everything else in requirements.txt
#   100 MB  added by Nuclio (processor, its wheels) and 30 MB by the weights
#   ≈ 1.46 GB, below the 2 GB that we allow. The CUDA build of torch adds some 5 to 6 GB (not measured).
#
# Every native library of these wheels needs only libc, libm, libstdc++, libgcc and zlib, which the slim
# image has (a test checks this): no apt-get, no X11, no CUDA image (torch's wheels carry CUDA's libraries;
# the driver comes from the host).
FROM python:3.11.14-slim-bookworm

# cu129 runs on Volta to Blackwell with a CUDA 12 driver. Older cards: cu126; newest drivers: cu130.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu

# Nuclio copies the function here.
WORKDIR /opt/nuclio

COPY requirements.txt /tmp/requirements.txt
RUN pip install --no-cache-dir --root-user-action=ignore \
        --extra-index-url "$TORCH_INDEX" -r /tmp/requirements.txt \
    && rm /tmp/requirements.txt \
    && python -c "import cv2, numpy, PIL, prometheus_client, pycocotools, redis, safetensors, tenacity, torch; print('torch', torch.__version__)"
