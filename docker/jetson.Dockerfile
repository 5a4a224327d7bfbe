# A base for docker/Dockerfile on a Jetson: an image with the vendor's torch and torchvision, and ROS 2 from apt.
#   docker build -f docker/jetson.Dockerfile -t jetson_ros --build-arg DISTRO=jazzy .
#   docker build -f docker/Dockerfile -t emotion_perception \
#     --build-arg DISTRO=jazzy --build-arg BASE=jetson_ros --build-arg TORCH=vendor .
# Jazzy needs an image of Ubuntu 24.04 (JetPack 7), Humble one of Ubuntu 22.04 (JetPack 6), for example
#   --build-arg DISTRO=humble --build-arg BASE=dustynv/l4t-ml:r36.2.0
ARG BASE=nvcr.io/nvidia/pytorch:25.08-py3
FROM ${BASE}
ARG DISTRO=jazzy
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
ENV DEBIAN_FRONTEND=noninteractive LANG=C.UTF-8

RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates curl \
    && curl -fsSL https://raw.githubusercontent.com/ros/rosdistro/master/ros.key \
      -o /usr/share/keyrings/ros-archive-keyring.gpg \
    && echo "deb [arch=$(dpkg --print-architecture) signed-by=/usr/share/keyrings/ros-archive-keyring.gpg]" \
      "http://packages.ros.org/ros2/ubuntu $(. /etc/os-release && echo "${UBUNTU_CODENAME}") main" \
      > /etc/apt/sources.list.d/ros2.list \
    && apt-get update && apt-get install -y --no-install-recommends \
      build-essential "ros-${DISTRO}-ros-base" \
    && rm -rf /var/lib/apt/lists/*
