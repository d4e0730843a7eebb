/** Command lines about one image: create, info, check, map. */
import { linesOf } from "./line.ts"

export const IMAGE_LINES = linesOf(`
create x 1M
create -q x 1M
create -f raw x 1M
create -fraw x 1M
create --format=raw x 1M => 0: qemu-img has the letter only
create -f raw x 0
create -f raw x 700
create -f raw x 1.5M
create -f raw x 0x1000
create -f raw x 1b
create -f raw x 1k
create -f raw x 010
create -f raw x 1.5
create -f raw x 1KiB
create -f raw x -1
create -f raw x -- -1
create -f raw x ""
create -f raw "" 1M
create -f raw x
create -f raw
create
create -f
create x 1M 2M
create -f foo x 1M
create -f vmdk x 1M => 1: formats are raw and qcow2
create -f raw -o size=1M x
create -f raw -o size=1M x 2M
create -f raw -o preallocation=off x 1M
create -f raw -o preallocation=metadata x 1M
create -f raw -o preallocation=full x 1M
create -f raw -o preallocation=falloc x 1M
create -f raw -o cluster_size=4k x 1M
create -f raw -o foo x 1M
create -f raw -o "" x 1M
create -f raw -o help
create -f raw -b base.raw x 1M
create -f raw -b base.raw -F raw x 1M
create -f raw -F raw x 1M
create -f raw no/such/folder 1M
create -Z x 1M
create --frobnicate x 1M
create -h
create --help
create -f qcow2 x 1M
create -q -f qcow2 x 1M
create -qf qcow2 x 1M
create -f qcow2 -q -- x 1M
create x -f qcow2 1M
create x 1M -f qcow2
create -f raw -f qcow2 x 1M => 1: one of the two would have no effect
create -f qcow2 x 0
create -f qcow2 x 700
create -f qcow2 x 3T
create -f qcow2 x 64P
create -f qcow2 x 1E
create -f qcow2 x
create -f qcow2 -o size=2M x
create -f qcow2 -o size=2M x 1M
create -f qcow2 -o cluster_size=4k x 1M
create -f qcow2 -o cluster_size=512 x 1M
create -f qcow2 -o cluster_size=2M x 1M
create -f qcow2 -o cluster_size=3k x 1M
create -f qcow2 -o cluster_size=4M x 1M
create -f qcow2 -o cluster_size=0 x 1M
create -f qcow2 -o cluster_size=big x 1M
create -f qcow2 -o cluster_size=4k,cluster_size=8k x 1M
create -f qcow2 -o cluster_size=4k -o refcount_bits=8 x 1M
create -f qcow2 -o refcount_bits=1 x 1M
create -f qcow2 -o refcount_bits=64 x 1M
create -f qcow2 -o refcount_bits=3 x 1M
create -f qcow2 -o refcount_bits=128 x 1M
create -f qcow2 -o refcount_bits=x x 1M
create -f qcow2 -o compat=0.10 x 1M
create -f qcow2 -o compat=1.1 x 1M
create -f qcow2 -o compat=v2 x 1M
create -f qcow2 -o compat=v3 x 1M
create -f qcow2 -o compat=2 x 1M
create -f qcow2 -o compat=0.10,refcount_bits=1 x 1M
create -f qcow2 -o compat=0.10,lazy_refcounts=on x 1M
create -f qcow2 -o lazy_refcounts=on x 1M
create -f qcow2 -o lazy_refcounts=off x 1M
create -f qcow2 -o lazy_refcounts=yes x 1M
create -f qcow2 -o lazy_refcounts x 1M
create -f qcow2 -o nolazy_refcounts x 1M => 1: that spelling is deprecated in QEMU
create -f qcow2 -o lazy_refcounts=maybe x 1M
create -f qcow2 -o preallocation=metadata x 1M
create -f qcow2 -o preallocation=off x 1M
create -f qcow2 -o preallocation=foo x 1M
create -f qcow2 -o preallocation=falloc x 1M
create -f qcow2 -o preallocation=full x 1M
create -f qcow2 -o compression_type=zlib x 1M
create -f qcow2 -o compression_type=lzma x 1M
create -f qcow2 -o compression_type=zstd,compat=0.10 x 1M
create -f qcow2 -o extended_l2=on x 1M
create -f qcow2 -o extended_l2=off x 1M
create -f qcow2 -o extended_l2=on,cluster_size=8k x 1M
create -f qcow2 -o data_file=d.raw x 1M
create -f qcow2 -o data_file=d.raw,data_file_raw=on x 1M
create -f qcow2 -o data_file_raw=on x 1M
create -f qcow2 -o nocow=off x 1M
create -f qcow2 -o foo=1 x 1M
create -f qcow2 -o "" x 1M
create -f qcow2 -o cluster_size=4k, x 1M
create -f qcow2 -o help
create -f qcow2 -o help x 1M
create -f qcow2 -b base.qcow2 -F qcow2 x
create -f qcow2 -b base.qcow2 -F qcow2 x 4M
create -f qcow2 -b base.qcow2 -F qcow2 x 512k
create -f qcow2 -b base.qcow2 x
create -f qcow2 -b base.raw -F raw x
create -f qcow2 -b odd.raw -F raw x
create -f qcow2 -b base.raw -F qcow2 x
create -f qcow2 -b gone.raw -F raw x
create -f qcow2 -b gone.raw -F raw x 1M
create -f qcow2 -b gone.raw -F raw -u x 1M
create -f qcow2 -b gone.raw -F raw -u x
create -f qcow2 -b gone.raw -u x 1M
create -f qcow2 -b base.raw -F foo x 1M
create -f qcow2 -b "" -F raw x 1M
create -f qcow2 -F raw x 1M
create -f qcow2 -u x 1M
create -f qcow2 -o backing_file=base.raw,backing_fmt=raw x
create -f qcow2 -o backing_file=base.raw x 1M
create -f qcow2 -o backing_fmt=raw x 1M
create -f qcow2 -o backing_file=gone.raw,backing_fmt=raw -b base.raw x
create -f qcow2 -b x -F qcow2 x 1M
create -f qcow2 -b v2.qcow2 -F qcow2 x
create -f qcow2 -b comp.qcow2 -F qcow2 -o cluster_size=4k x
create -f qcow2 base.raw 1M => 1: nothing is overwritten

info base.raw
info base.qcow2
info -f raw base.raw
info -f raw base.qcow2
info -f qcow2 base.raw
info -f foo base.raw
info --format=raw base.raw
info top.qcow2
info missing.qcow2
info v2.qcow2
info small.qcow2
info ext.qcow2
info data.qcow2
info bitmap.qcow2
info snap.qcow2
info zstd.qcow2
info marked.qcow2
info leak.qcow2
info odd.raw
info empty.raw
info --output=json base.raw
info --output=json -f raw base.qcow2
info --output json base.qcow2
info --output=human base.qcow2
info --output=xml base.qcow2
info --output=json -U base.qcow2
info --force-share base.qcow2
info --output=json top.qcow2
info --output=json --backing-chain top.qcow2
info --backing-chain top.qcow2
info --backing-chain base.raw
info --output=json --backing-chain base.raw
info --output=json over.qcow2
info --output=json missing.qcow2
info --output=json --backing-chain missing.qcow2
info --output=json v2.qcow2
info --output=json small.qcow2
info --output=json ext.qcow2
info --output=json data.qcow2
info --output=json bitmap.qcow2
info --output=json snap.qcow2
info --output=json comp.qcow2
info --output=json zstd.qcow2
info --output=json leak.qcow2
info --output=json corrupt.qcow2
info --output=json marked.qcow2
info --output=json future.qcow2 => 0: it says all the same what the image is
info --output=json odd.raw
info --output=json empty.raw
info --output=json text
info cut.qcow2
info gone.raw
info
info ""
info base.raw base.qcow2
info --frobnicate base.raw
info -h
info --help
info --outp=json base.qcow2
info --image-opts driver=qcow2,file.filename=base.qcow2
info --image-opts --output=json driver=qcow2,file.driver=file,file.filename=base.qcow2
info --image-opts driver=raw,file.filename=base.raw
info --image-opts file.filename=base.qcow2
info --image-opts driver=qcow2
info --image-opts driver=foo,file.filename=base.qcow2
info --image-opts driver=qcow2,file.filename=gone.raw
info --image-opts -f qcow2 driver=qcow2,file.filename=base.qcow2
info --object secret,id=s,data=x base.raw => 1: secrets come from files: --passphrase-file

check base.qcow2
check -q base.qcow2
check -f qcow2 base.qcow2
check -f raw base.qcow2
check -f raw base.raw
check base.raw
check --output=json base.qcow2
check --output=json base.raw
check --output=human base.qcow2
check --output=yaml base.qcow2
check --output=json top.qcow2
check --output=json missing.qcow2 => 0: it does not look at backing files
check --output=json v2.qcow2
check --output=json small.qcow2
check --output=json ext.qcow2
check --output=json data.qcow2
check --output=json bitmap.qcow2
check --output=json snap.qcow2
check --output=json comp.qcow2
check --output=json zstd.qcow2
check leak.qcow2
check -q leak.qcow2
check --output=json leak.qcow2
check -r leaks leak.qcow2
check -r leaks --output=json leak.qcow2
check -r all leak.qcow2
check --repair=all --output=json leak.qcow2
check corrupt.qcow2
check --output=json corrupt.qcow2
check -r leaks --output=json corrupt.qcow2
check -r all corrupt.qcow2
check -r all base.qcow2
check -r all --output=json base.qcow2
check marked.qcow2
check -r all marked.qcow2
check -r leaks marked.qcow2
check future.qcow2
check -r all future.qcow2
check -r everything base.qcow2
check -r base.qcow2
check -r leaks base.raw
check -U base.qcow2
check -T none base.qcow2
check -T foo base.qcow2
check cut.qcow2
check gone.qcow2
check text
check
check ""
check base.qcow2 small.qcow2
check --frobnicate base.qcow2
check -h
check --image-opts driver=qcow2,file.filename=base.qcow2
check --image-opts driver=raw,file.filename=base.raw

map base.raw
map base.qcow2
map --output=json base.raw
map --output=json base.qcow2
map --output=json -f raw base.raw
map --output=json -f raw base.qcow2
map -f qcow2 base.raw
map --output=json top.qcow2
map top.qcow2
map --output=json over.qcow2
map --output=json missing.qcow2
map --output=json v2.qcow2
map --output=json small.qcow2
map --output=json ext.qcow2 => 0: the places kept for subclusters that hold nothing are not listed
map --output=json data.qcow2
map --output=json bitmap.qcow2
map --output=json snap.qcow2
map --output=json comp.qcow2
map --output=json zstd.qcow2
map comp.qcow2 => 0: it lists compressed clusters as such; qemu-img gives up
map --output=json empty.raw
map empty.raw
map --output=json -f raw odd.raw
map --output=json marked.qcow2
map --output=json future.qcow2
map --output=json -s 64k base.raw
map --output=json -s 64k -l 64k base.raw
map --output=json --start-offset=100 --max-length=1000 base.qcow2
map --output=json --start-offset=64k top.qcow2
map --output=json --start-offset=4M top.qcow2
map --output=json --start-offset=99M top.qcow2
map --output=json --max-length=0 top.qcow2
map --output=json --max-length=64M top.qcow2
map --start-offset=-1 base.raw
map --max-length=lots base.raw
map --output=json -U base.qcow2
map --image-opts --output=json driver=qcow2,file.filename=base.qcow2
map --output=xml base.raw
map gone.raw
map
map base.raw base.qcow2
map --frobnicate base.raw
map -h
`)
