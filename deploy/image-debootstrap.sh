#!/usr/bin/env bash
# Builds the image where no container engine runs and no image registry can be reached: the base image is a Debian made
# by debootstrap, the builder is buildah with chroot isolation. Then the image has to prove itself by running.
# PYTHON names an interpreter that the project is installed in, with its demo extra; `make image-debootstrap` sees to it.
# For Debian, as root: apt-get install buildah debootstrap.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

suite=bookworm
base=localhost/debian-python:$suite
image=${IMAGE:-localhost/faro-conversations:local}
# While it is built, the image trusts whom this machine trusts: packages may come through a proxy with its own authority.
authorities=/etc/ssl/certs/ca-certificates.crt
# Works everywhere, inside a container too; overlay is faster where the kernel lets us.
export STORAGE_DRIVER=${STORAGE_DRIVER:-vfs}

for program in buildah debootstrap; do
    command -v "$program" > /dev/null || { echo "$program is missing: apt-get install buildah debootstrap" >&2; exit 1; }
done

if ! buildah inspect --type image "$base" > /dev/null 2>&1; then
    root=$(mktemp -d)
    trap 'rm -rf "$root"' EXIT
    echo "Making $base with debootstrap (about a minute) ..."
    debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates "$suite" "$root" \
        http://deb.debian.org/debian > /dev/null
    rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/*
    container=$(buildah from scratch)
    buildah add --quiet "$container" "$root" / > /dev/null
    buildah commit --quiet --rm "$container" "$base" > /dev/null
    rm -rf "$root"
    trap - EXIT
fi

# The docker format, because OCI's has no HEALTHCHECK.
buildah build --isolation=chroot --format=docker --build-arg "BASE_IMAGE=$base" --tag "$image" \
    --volume "$authorities:$authorities:ro" .

exec "${PYTHON:-python3}" deploy/prove_image.py "$image"
