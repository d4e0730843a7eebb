#!/bin/bash
# Makes the golden images and their manifest with QEMU's own tools (7.2 made those that are committed).
# The images are committed: the tests need no QEMU. Run it only to add images; the manifest says what each one holds.
set -euo pipefail
cd "$(dirname "$0")"
rm -f ./*.qcow2 ./*.raw manifest.json
rm -rf sub
mkdir sub
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
entries=()

create() { # FILE SIZE OPTIONS [more words]
  local file=$1 size=$2 options=$3
  shift 3
  qemu-img create -q -f qcow2 -o "$options" "$@" "$file" "$size"
}

io() { # FILE COMMAND...
  local file=$1
  shift
  local words=()
  for command in "$@"; do words+=(-c "$command"); done
  qemu-io -f qcow2 "${words[@]}" "$file" >"$scratch/io.log"
  if grep -qi "failed" "$scratch/io.log"; then cat "$scratch/io.log"; exit 1; fi
}

# Adds FILE to the manifest: its guest content's size and hash, what `qemu-img check` says, each snapshot's hash.
note() { # FILE ABOUT
  local file=$1 about=$2
  qemu-img convert -f qcow2 -O raw "$file" "$scratch/content"
  local size hash check
  size=$(stat -c %s "$scratch/content")
  hash=$(sha256sum <"$scratch/content" | cut -d' ' -f1)
  check=$(qemu-img check -f qcow2 --output=json "$file" 2>/dev/null | tr -d '\n\t' | sed 's/  */ /g') || true
  local snapshots=() name
  while read -r name; do
    [ -n "$name" ] || continue
    qemu-img convert -f qcow2 -O raw -l "snapshot.name=$name" "$file" "$scratch/content"
    snapshots+=("{ \"name\": \"$name\", \"sha256\": \"$(sha256sum <"$scratch/content" | cut -d' ' -f1)\" }")
  done < <(qemu-img snapshot -l "$file" | awk 'NR > 2 { print $2 }')
  local list
  list=$(IFS=,; echo "${snapshots[*]-}")
  # `check` names the file as given and may differ in nothing else.
  entries+=("  { \"file\": \"$file\", \"about\": \"$about\", \"size\": $size, \"sha256\": \"$hash\",
    \"snapshots\": [$list], \"check\": $check }")
}

text() { head -c "$1" < <(seq 1 100000); } # text that compresses to about a third
noise() { awk -v n="$1" 'BEGIN { x = 1; for (i = 0; i < n; i++) { x = (x * 16807) % 2147483647; printf "%c", 33 + int(x / 65536) % 90 } }'; } # hardly compresses

# Plain images: versions and cluster sizes. A few clusters only, two of them neighbours, one at the end.
create v2.qcow2 64k compat=0.10,cluster_size=512
io v2.qcow2 "write -P 0x11 0 1k" "write -P 0x12 5k 700" "write -P 0x13 65024 512"
note v2.qcow2 "version 2, 512-byte clusters"
create v3-512.qcow2 1M compat=1.1,cluster_size=512
io v3-512.qcow2 "write -P 0x21 0 33k" "write -P 0x22 100k 512" "write -P 0x23 1048064 512"
note v3-512.qcow2 "version 3, 512-byte clusters: many L2 tables"
create v3-4k.qcow2 256k compat=1.1,cluster_size=4k
io v3-4k.qcow2 "write -P 0x31 0 512" "write -P 0x32 12k 8k" "write -P 0x33 200k 1"
note v3-4k.qcow2 "version 3, 4 KiB clusters"
create odd-size.qcow2 10752 compat=1.1,cluster_size=4k
io odd-size.qcow2 "write -P 0x41 8k 2560"
note odd-size.qcow2 "the disk ends inside its last cluster"
create prealloc.qcow2 32k compat=1.1,cluster_size=512,preallocation=metadata
io prealloc.qcow2 "write -P 0x42 3k 2k"
note prealloc.qcow2 "metadata preallocated"
create lazy.qcow2 64k compat=1.1,cluster_size=512,lazy_refcounts=on
io lazy.qcow2 "write -P 0x43 0 20k"
note lazy.qcow2 "lazy refcounts, closed cleanly"
create dirty.qcow2 64k compat=1.1,cluster_size=512,lazy_refcounts=on
(qemu-io -f qcow2 -c "write -P 0x44 0 20k" -c "flush" -c "sigraise 9" dirty.qcow2 >/dev/null 2>&1 || true) 2>/dev/null
note dirty.qcow2 "lazy refcounts, writer killed: the dirty bit is set and the refcounts are behind"

# Refcount widths. 16 bits is what the others have.
for bits in 1 2 4 8 32 64; do
  create "refcount-$bits.qcow2" 96k "compat=1.1,cluster_size=512,refcount_bits=$bits"
  # The widest needs two refcount blocks for 40 KiB.
  io "refcount-$bits.qcow2" "write -P 0x5$((bits % 9)) 0 $((bits == 64 ? 40 : 13))k" "write -P 0x5a 90k 2k"
  note "refcount-$bits.qcow2" "refcounts of $bits bits"
done

# Zero clusters: plain ones, ones that keep their host cluster, over data and over nothing.
create zero.qcow2 64k compat=1.1,cluster_size=512
io zero.qcow2 "write -P 0x61 0 16k" "write -z 2k 1k" "write -z -u 5k 1k" "write -z 40k 2k" "discard 8k 2k"
note zero.qcow2 "zero clusters with and without a host cluster"

# Compressed: clusters that straddle host clusters, share them, and lie beside plain ones.
text 40960 >"$scratch/text"
noise 8192 | tr 'a-z' 'A-Z' >>"$scratch/text"
qemu-img convert -q -c -f raw -O qcow2 -o cluster_size=4k "$scratch/text" zlib-4k.qcow2
note zlib-4k.qcow2 "zlib, 4 KiB clusters"
qemu-img convert -q -c -f raw -O qcow2 -o cluster_size=512 "$scratch/text" zlib-512.qcow2
note zlib-512.qcow2 "zlib, 512-byte clusters"
qemu-img convert -q -c -f raw -O qcow2 -o compat=0.10,cluster_size=8k "$scratch/text" zlib-v2.qcow2
io zlib-v2.qcow2 "write -P 0x71 17k 1k"
note zlib-v2.qcow2 "zlib, version 2, one cluster rewritten plain"
qemu-img convert -q -c -f raw -O qcow2 -o cluster_size=4k,compression_type=zstd "$scratch/text" zstd-4k.qcow2
note zstd-4k.qcow2 "zstd, 4 KiB clusters"

# Internal snapshots: shared clusters, some rewritten afterwards, compressed ones among them.
create snapshots.qcow2 128k compat=1.1,cluster_size=512
io snapshots.qcow2 "write -P 0x81 0 20k" "write -P 0x82 64k 1k"
qemu-img snapshot -c first snapshots.qcow2
io snapshots.qcow2 "write -P 0x83 4k 1k" "write -z 10k 512" "write -P 0x84 100k 1k"
qemu-img snapshot -c second snapshots.qcow2
io snapshots.qcow2 "write -P 0x85 300 100"
note snapshots.qcow2 "two internal snapshots"
create snapshots-v2.qcow2 64k compat=0.10,cluster_size=1k
io snapshots-v2.qcow2 "write -P 0x86 0 20k"
qemu-img snapshot -c only snapshots-v2.qcow2
io snapshots-v2.qcow2 "write -P 0x87 4k 1k"
note snapshots-v2.qcow2 "version 2 with an internal snapshot"
qemu-img convert -q -c -f raw -O qcow2 -o cluster_size=4k "$scratch/text" snapshots-zlib.qcow2
qemu-img snapshot -c packed snapshots-zlib.qcow2
io snapshots-zlib.qcow2 "write -P 0x88 5000 3000"
note snapshots-zlib.qcow2 "a snapshot that shares compressed clusters"

# Backing chains: shorter, longer, other cluster sizes, relative names, another directory.
text 10100 >base-short.raw
text 36000 >base-long.raw
create overlay-short.qcow2 64k compat=1.1,cluster_size=4k -b base-short.raw -F raw
io overlay-short.qcow2 "write -P 0x91 9k 512" "write -P 0x92 32k 1k" "write -z 4k 4k"
note overlay-short.qcow2 "raw backing file that ends in the middle of a sector"
create overlay-long.qcow2 32k compat=1.1,cluster_size=512 -b base-long.raw -F raw
io overlay-long.qcow2 "write -P 0x93 1000 1000" "discard 8k 1k"
note overlay-long.qcow2 "raw backing file longer than the disk"
create sub/overlay-relative.qcow2 96k compat=1.1,cluster_size=1k -b ../overlay-short.qcow2 -F qcow2
io sub/overlay-relative.qcow2 "write -P 0x94 3k 100" "write -P 0x95 80k 1k"
note sub/overlay-relative.qcow2 "in a directory of its own, three files deep, cluster sizes differ"
create overlay-v2.qcow2 48k compat=0.10,cluster_size=2k -b zlib-4k.qcow2 -F qcow2
io overlay-v2.qcow2 "write -P 0x96 100 100"
note overlay-v2.qcow2 "version 2 over a compressed backing image"

# Extended L2 entries: subclusters of every kind, over a raw image, compressed clusters, and a snapshot.
create extended-l2.qcow2 256k compat=1.1,cluster_size=16k,extended_l2=on
io extended-l2.qcow2 "write -P 0xa2 0 512" "write -P 0xa3 40k 2k"
note extended-l2.qcow2 "extended L2 entries"
create overlay-extended-l2.qcow2 96k compat=1.1,cluster_size=16k,extended_l2=on -b base-long.raw -F raw
io overlay-extended-l2.qcow2 "write -P 0xa5 700 1k" "write -z 3k 1k" "write -z -u 16k 16k" "write -P 0xa6 18k 512" "write -P 0xa7 80k 4k"
io overlay-extended-l2.qcow2 "discard 48k 16k" "write -z 70k 512"
note overlay-extended-l2.qcow2 "extended L2 entries over a raw image: subclusters of every kind"
qemu-img convert -q -c -f raw -O qcow2 -o cluster_size=16k,extended_l2=on "$scratch/text" extended-l2-zlib.qcow2
io extended-l2-zlib.qcow2 "write -P 0xa8 20000 100"
qemu-img snapshot -c packed extended-l2-zlib.qcow2
io extended-l2-zlib.qcow2 "write -P 0xa9 33k 512" "write -z 17k 1k"
note extended-l2-zlib.qcow2 "extended L2 entries, compressed clusters, and a snapshot that shares them"

# What others keep in an image, and what this version refuses.
create bitmap.qcow2 64k compat=1.1,cluster_size=4k
qemu-img bitmap --add -g 512 bitmap.qcow2 track
io bitmap.qcow2 "write -P 0xa1 0 3k"
note bitmap.qcow2 "a persistent dirty bitmap"
create data-file.qcow2 16k compat=1.1,cluster_size=4k,data_file=data-file.raw
io data-file.qcow2 "write -P 0xa4 0 512"
note data-file.qcow2 "an external data file"

# A file whose last cluster is cut short, as a copy that drops trailing zeroes leaves it.
create cut.qcow2 64k compat=1.1,cluster_size=4k
io cut.qcow2 "write -P 0xb1 0 4k" "write -P 0xb2 8k 1k"
truncate -s -2560 cut.qcow2
note cut.qcow2 "the file ends inside its last cluster"

{
  echo "["
  for ((i = 0; i < ${#entries[@]}; i++)); do
    echo "${entries[$i]}$([ $((i + 1)) -lt ${#entries[@]} ] && echo ,)"
  done
  echo "]"
} >manifest.json
