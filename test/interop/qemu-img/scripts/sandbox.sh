#!/bin/sh
# What gondolin (a sandbox of virtual machines in Node) calls qemu-img for: is it there, an overlay for each machine, what an image stands on,
# and a checkpoint that is given another base.
set -eu
qemu-img --version >/dev/null
backing() {
  qemu-img info --output=json "$1" | node -e '
    const info = JSON.parse(require("node:fs").readFileSync(0, "utf8"))
    console.log(info["backing-filename"] ?? null, info["backing-filename-format"] ?? null, info["virtual-size"], info.format)'
}
rm -f overlay.qcow2
qemu-img create -f qcow2 -F raw -b "$PWD/rootfs.raw" overlay.qcow2 >/dev/null
backing overlay.qcow2
mkdir -p checkpoints
mv overlay.qcow2 checkpoints/one.qcow2
cp rootfs.raw copy.raw
qemu-img rebase -u -F raw -b "$PWD/copy.raw" checkpoints/one.qcow2
backing checkpoints/one.qcow2
qemu-img create -f qcow2 -F qcow2 -b "$PWD/checkpoints/one.qcow2" two.qcow2 >/dev/null
backing two.qcow2
qemu-img rebase -F raw -b "$PWD/rootfs.raw" two.qcow2
backing two.qcow2
if qemu-img create -f qcow2 -F raw -b "$PWD/gone.raw" three.qcow2 >/dev/null 2>&1; then echo "an overlay on nothing"; fi
if qemu-img info --output=json gone.qcow2 >/dev/null 2>&1; then echo "an image that is not there"; fi
