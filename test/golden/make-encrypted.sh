#!/bin/bash
# Makes the encrypted golden images with QEMU's own tools (7.2 made those that are committed), packed by gzip: their key material is mostly
# zeroes. manifest.json says what each one holds. Their passphrase is "golden"; "seventh" opens key slot 7 of luks-xts.
set -euo pipefail
cd "$(dirname "$0")/encrypted"
rm -f ./*.gz manifest.json
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
printf golden >"$scratch/secret"
printf seventh >"$scratch/seventh"
secret=(--object "secret,id=s,file=$scratch/secret")
entries=()

golden() { # NAME FORMAT SIZE OPTIONS ABOUT [qemu-io COMMAND...]
  local name=$1 format=$2 size=$3 options=$4 about=$5 words=() command prefix=
  shift 5
  [ "$format" = qcow2 ] && prefix=encrypt.
  local image="$scratch/$name" opts
  opts="driver=$format,${prefix}key-secret=s,file.filename=$image"
  qemu-img create -q -f "$format" "${secret[@]}" -o "${prefix}key-secret=s,$options" "$image" "$size"
  for command in "$@"; do words+=(-c "$command"); done
  qemu-io "${secret[@]}" --image-opts "$opts" "${words[@]}" >"$scratch/io.log"
  if [ "$name" = luks-xts.qcow2 ]; then
    qemu-img amend "${secret[@]}" --object "secret,id=n,file=$scratch/seventh" \
      -o encrypt.state=active,encrypt.new-secret=n,encrypt.keyslot=7,encrypt.iter-time=10 --image-opts "$opts"
  fi
  qemu-img convert "${secret[@]}" --image-opts "$opts" -O raw "$scratch/content"
  entries+=("  { \"file\": \"$name\", \"format\": \"$format\", \"about\": \"$about\", \"size\": $(stat -c %s "$scratch/content"),
    \"sha256\": \"$(sha256sum <"$scratch/content" | cut -d' ' -f1)\" }")
  gzip -9n <"$image" >"$name.gz"
}

golden luks-xts.qcow2 qcow2 192k "encrypt.format=luks,encrypt.cipher-alg=aes-128,encrypt.iter-time=10,cluster_size=4k" \
  "LUKS, aes-xts-plain64, key slots 0 and 7" "write -P 0x11 0 9k" "write -P 0x12 100k 512" "write -z 4k 4k" "write -P 0x13 190k 2k"
golden luks-cbc.qcow2 qcow2 96k \
  "encrypt.format=luks,encrypt.cipher-alg=aes-128,encrypt.cipher-mode=cbc,encrypt.ivgen-alg=essiv,encrypt.hash-alg=sha512,encrypt.iter-time=10,cluster_size=512,compat=0.10" \
  "version 2, LUKS, aes-cbc-essiv:sha256, sha512" "write -P 0x21 0 33k" "write -P 0x22 90k 700"
golden aes.qcow2 qcow2 64k "encrypt.format=aes,cluster_size=4k" "the old AES" "write -P 0x31 5000 9000" "write -P 0x32 60k 4k"
golden luks.raw luks 32k "cipher-alg=aes-128,cipher-mode=cbc,ivgen-alg=plain64,hash-alg=sha1,iter-time=10" \
  "a raw LUKS image, aes-cbc-plain64, sha1" "write -P 0x41 0 32k" "write -P 0x42 1000 5000"

{
  echo "["
  for ((i = 0; i < ${#entries[@]}; i++)); do
    echo "${entries[$i]}$([ $((i + 1)) -lt ${#entries[@]} ] && echo ,)"
  done
  echo "]"
} >manifest.json
