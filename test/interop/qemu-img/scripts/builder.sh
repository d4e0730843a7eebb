#!/bin/sh
# What builders of images (virt-make-fs, Debian's cloud images) do: a file system in a raw image, made into a compressed qcow2 image, checked,
# measured, compared, mapped and unpacked again.
set -eu
qemu-img create -q -f raw fs.raw 4M
if command -v mkfs.ext4 >/dev/null; then
  mkfs.ext4 -q -F -U 6b1c0f0e-6f3f-4a7e-9d62-2f5d0c3d9b11 -E hash_seed=6b1c0f0e-6f3f-4a7e-9d62-2f5d0c3d9b11 fs.raw
fi
size() { node -e 'console.log(JSON.parse(require("node:fs").readFileSync(0, "utf8"))[process.argv[1]])' "$1"; }
qemu-img info --output=json fs.raw | size virtual-size
qemu-img convert -f raw -O qcow2 -c -o cluster_size=64k fs.raw disk.qcow2
qemu-img check -q disk.qcow2
qemu-img info --output=json disk.qcow2 | size format
qemu-img compare -q -f raw -F qcow2 fs.raw disk.qcow2 && echo same
qemu-img convert -f qcow2 -O raw disk.qcow2 back.raw
cmp fs.raw back.raw && echo "same bytes"
qemu-img map --output=json back.raw | node -e '
  const parts = JSON.parse(require("node:fs").readFileSync(0, "utf8"))
  console.log(parts.reduce((sum, part) => sum + part.length, 0), parts.some((part) => part.zero))'
qemu-img measure --output=json -O qcow2 --size 1G | size required
status=0; qemu-img check -q fs.raw 2>/dev/null || status=$?
echo "check of a raw image: $status"
status=0; qemu-img compare -q fs.raw rootfs.raw || status=$?
echo "compare of others: $status"
