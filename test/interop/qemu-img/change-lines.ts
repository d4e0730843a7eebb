/** Command lines that make one image from another, or change one. */
import { linesOf } from "./line.ts"

export const CHANGE_LINES = linesOf(`
convert base.raw x
convert -O raw base.qcow2 x
convert -O qcow2 base.raw x
convert -f raw -O qcow2 base.raw x
convert -f qcow2 -O raw base.qcow2 x
convert -f qcow2 -O raw base.raw x
convert -f raw -O qcow2 base.qcow2 x
convert -q -O qcow2 top.qcow2 x
convert -p -O raw top.qcow2 x
convert -O raw top.qcow2 x
convert -O raw v2.qcow2 x
convert -O qcow2 small.qcow2 x
convert -O raw ext.qcow2 x
convert -O raw comp.qcow2 x
convert -O raw zstd.qcow2 x
convert -O qcow2 odd.raw x
convert -O raw odd.raw x
convert -O qcow2 empty.raw x
convert -O raw missing.qcow2 x
convert -O raw corrupt.qcow2 x
convert -O raw marked.qcow2 x
convert -O raw future.qcow2 x
convert -c -O qcow2 base.raw x
convert -c -O raw base.qcow2 x
convert -c -O qcow2 -o cluster_size=4k base.raw x
convert -c -O qcow2 -o compression_type=zstd base.raw x => 1: Node 20 has no zstd
convert -O qcow2 -o cluster_size=4k,refcount_bits=64 base.raw x
convert -O qcow2 -o compat=0.10 base.raw x
convert -O qcow2 -o preallocation=metadata base.raw x
convert -O qcow2 -o extended_l2=on base.raw x
convert -O qcow2 -o cluster_size=3k base.raw x
convert -O qcow2 -o foo=1 base.raw x
convert -O qcow2 -o help base.raw x
convert -O foo base.raw x
convert -f foo base.raw x
convert -S 0 -O qcow2 base.raw x
convert -S 4k -O qcow2 base.raw x
convert -S 64k -O raw base.raw x
convert -S 100 -O raw base.raw x
convert -S -1 -O raw base.raw x
convert -S lots -O raw base.raw x
convert -m 1 -O qcow2 base.raw x
convert -m 16 -W -O qcow2 base.raw x
convert -m 0 -O qcow2 base.raw x
convert -m 17 -O qcow2 base.raw x
convert -m x -O qcow2 base.raw x
convert -n -O raw base.raw base.qcow2
convert -n -O qcow2 base.raw base.qcow2
convert -n -O raw base.raw gone.raw
convert -n -O qcow2 base.raw v2.qcow2
convert -n -O raw base.qcow2 empty.raw
convert -n --target-is-zero -O qcow2 base.raw v2.qcow2
convert --target-is-zero -O qcow2 base.raw x
convert -O qcow2 -B base.qcow2 -F qcow2 over.qcow2 x
convert -O qcow2 -B base.qcow2 over.qcow2 x
convert -O raw -B base.qcow2 -F qcow2 over.qcow2 x
convert -O qcow2 -B gone.raw -F raw base.raw x
convert -O qcow2 -o backing_file=base.qcow2,backing_fmt=qcow2 over.qcow2 x
convert -l one -O raw snap.qcow2 x
convert -l snapshot.name=one -O raw snap.qcow2 x
convert -l 1 -O raw snap.qcow2 x
convert -l gone -O raw snap.qcow2 x
convert -O raw base.raw v2.qcow2 x
convert -O qcow2 base.qcow2 base.raw x
convert -U -O raw base.qcow2 x
convert -t none -O raw base.qcow2 x
convert -t foo -O raw base.qcow2 x
convert -T writeback -O raw base.qcow2 x
convert --salvage -O raw base.qcow2 x
convert -r 100M -O raw base.qcow2 x
convert -r fast -O raw base.qcow2 x
convert --bitmaps -O qcow2 bitmap.qcow2 x
convert --bitmaps -c -O qcow2 bitmap.qcow2 x
convert --bitmaps -O qcow2 -o cluster_size=4k bitmap.qcow2 x
convert --bitmaps -O qcow2 broken.qcow2 x
convert --bitmaps --skip-broken-bitmaps -O qcow2 broken.qcow2 x
convert --skip-broken-bitmaps -O qcow2 bitmap.qcow2 x
convert --bitmaps -O raw bitmap.qcow2 x
convert --bitmaps -O qcow2 base.raw x
convert --bitmaps -O qcow2 base.qcow2 x
convert --bitmaps -O qcow2 v2.qcow2 x
convert --bitmaps -O qcow2 -o compat=0.10 bitmap.qcow2 x
convert --bitmaps -O qcow2 bitmap.qcow2 broken.qcow2 x
convert --bitmaps -n -O qcow2 bitmap.qcow2 small.qcow2
convert --bitmaps -n -O qcow2 bitmap.qcow2 base.qcow2
convert --bitmaps -n -O qcow2 bitmap.qcow2 broken.qcow2
convert --bitmaps -n -O raw bitmap.qcow2 base.raw
measure --output=json -O qcow2 bitmap.qcow2
measure --output=json -O qcow2 broken.qcow2
measure --output=json -O qcow2 -o cluster_size=512 bitmap.qcow2
measure --output=json -O qcow2 -o compat=0.10 bitmap.qcow2
measure --output=json -O raw bitmap.qcow2
info broken.qcow2
info --output=json broken.qcow2
convert --image-opts -O raw driver=qcow2,file.filename=base.qcow2 x
convert -n --target-image-opts base.raw driver=qcow2,file.filename=base.qcow2
convert gone.raw x
convert base.raw
convert
convert base.raw no/such/folder
convert -O qcow2 base.raw base.raw
convert --frobnicate base.raw x
convert -h

compare base.raw base.raw
compare base.raw comp.qcow2
compare -f raw -F qcow2 base.raw comp.qcow2
compare base.raw base.qcow2
compare -q base.raw base.qcow2
compare -s base.raw comp.qcow2
compare -s base.raw base.raw
compare base.qcow2 over.qcow2
compare base.qcow2 same.qcow2
compare -s base.qcow2 same.qcow2
compare v2.qcow2 empty.raw
compare -p base.raw comp.qcow2
compare -U base.raw comp.qcow2
compare -T none base.raw comp.qcow2
compare -T foo base.raw comp.qcow2
compare -f qcow2 base.raw comp.qcow2
compare -F raw base.raw comp.qcow2
compare -f foo base.raw comp.qcow2
compare --image-opts driver=raw,file.filename=base.raw driver=qcow2,file.filename=comp.qcow2
compare base.raw gone.raw
compare gone.raw base.raw
compare base.raw
compare
compare base.raw base.qcow2 comp.qcow2
compare base.raw cut.qcow2
compare --frobnicate base.raw comp.qcow2
compare -h

measure --size 1G
measure --size 1G --output=json
measure --size 1G -O qcow2 --output=json
measure --size 1G -O raw --output=json
measure --size 0 -O qcow2 --output=json
measure --size 3T -O qcow2 --output=json
measure --size 1G -O qcow2 -o cluster_size=4k --output=json
measure --size 1G -O qcow2 -o refcount_bits=64 --output=json
measure --size 1G -O qcow2 -o extended_l2=on --output=json
measure --size 1G -O qcow2 -o preallocation=metadata --output=json
measure --size 1G -O qcow2 -o cluster_size=3k
measure --size 1G -O qcow2 -o foo=1
measure -O qcow2 --output=json base.raw
measure -O qcow2 --output=json base.qcow2
measure -O raw --output=json base.qcow2
measure -O qcow2 --output=json top.qcow2
measure -O qcow2 --output=json comp.qcow2
measure -O qcow2 --output=json odd.raw
measure -O qcow2 --output=json -l one snap.qcow2
measure -O qcow2 -l gone snap.qcow2
measure -f raw -O qcow2 --output=json base.qcow2
measure -f qcow2 -O qcow2 base.raw
measure -U --output=json base.qcow2
measure --image-opts -O qcow2 --output=json driver=qcow2,file.filename=base.qcow2
measure --size 1G base.raw
measure --size lots
measure --size -1
measure
measure gone.raw
measure -O foo base.raw
measure --output=xml base.raw
measure -h

resize -f raw base.raw 2M
resize base.qcow2 4M
resize base.qcow2 +1M
resize base.qcow2 2M
resize -q base.qcow2 4M
resize base.qcow2 1M
resize --shrink base.qcow2 1M
resize --shrink base.qcow2 -1M
resize --shrink base.qcow2 -64M
resize --shrink -f raw base.raw 512k
resize -f raw base.raw 512k
resize -f raw base.raw +0
resize base.raw 2M
resize v2.qcow2 2M
resize small.qcow2 2M
resize ext.qcow2 2M
resize top.qcow2 5M
resize snap.qcow2 2M
resize --shrink snap.qcow2 512k
resize comp.qcow2 3M
resize --preallocation=metadata base.qcow2 4M
resize --preallocation=off base.qcow2 4M
resize --preallocation=foo base.qcow2 4M
resize --preallocation=metadata -f raw base.raw 4M
resize base.qcow2 big
resize base.qcow2 1E
resize base.qcow2
resize
resize gone.qcow2 1M
resize -f qcow2 base.raw 2M
resize base.qcow2 base.raw 2M
resize --frobnicate base.qcow2 4M
resize --image-opts driver=qcow2,file.filename=base.qcow2 4M
resize -h => 0: prints the help

snapshot snap.qcow2
snapshot -l snap.qcow2
snapshot -l base.qcow2
snapshot -l base.raw
snapshot -c two snap.qcow2
snapshot -c one snap.qcow2
snapshot -c a base.qcow2
snapshot -q -c a v2.qcow2
snapshot -c a small.qcow2
snapshot -c a ext.qcow2
snapshot -c a base.raw
snapshot -c "" base.qcow2
snapshot -a one snap.qcow2
snapshot -a 1 snap.qcow2
snapshot -a gone snap.qcow2
snapshot -d one snap.qcow2
snapshot -d 1 snap.qcow2
snapshot -d gone snap.qcow2
snapshot -c two -d one snap.qcow2
snapshot -U -l snap.qcow2
snapshot -f qcow2 -l snap.qcow2 => 0: takes the format, as the other commands do
snapshot -c
snapshot
snapshot gone.qcow2
snapshot snap.qcow2 base.qcow2
snapshot --frobnicate snap.qcow2
snapshot --image-opts -l driver=qcow2,file.filename=snap.qcow2
snapshot -h

commit over.qcow2
commit -q over.qcow2
commit -p over.qcow2
commit -d over.qcow2
commit -f qcow2 over.qcow2
commit top.qcow2
commit -b base.raw top.qcow2
commit -b mid.qcow2 top.qcow2
commit -b gone.raw top.qcow2
commit base.qcow2
commit base.raw
commit missing.qcow2
commit -t none over.qcow2
commit -t foo over.qcow2
commit -r 100M over.qcow2
commit gone.qcow2
commit
commit over.qcow2 base.qcow2
commit --frobnicate over.qcow2
commit --image-opts driver=qcow2,file.filename=over.qcow2
commit -h

rebase -b base.raw -F raw top.qcow2
rebase -u -b base.raw -F raw top.qcow2
rebase -u -b "" top.qcow2
rebase -b "" over.qcow2
rebase -b "" top.qcow2
rebase -u -b gone.raw -F raw over.qcow2
rebase -b gone.raw -F raw over.qcow2
rebase -u -b base.qcow2 -F qcow2 missing.qcow2
rebase -b base.qcow2 over.qcow2
rebase -u -b base.qcow2 over.qcow2
rebase -p -b base.raw -F raw top.qcow2
rebase -q -f qcow2 -b base.raw -F raw top.qcow2
rebase -b mid.qcow2 -F qcow2 over.qcow2
rebase -b base.raw -F raw missing.qcow2
rebase -b base.raw -F raw base.raw
rebase -b base.raw -F foo top.qcow2
rebase -b base.qcow2 -F qcow2 v2.qcow2 => 0: where there was no backing file, qemu-img lets the new one show
rebase -t none -T none -b base.raw -F raw top.qcow2
rebase -t foo -b base.raw -F raw top.qcow2
rebase -U -b base.raw -F raw top.qcow2
rebase --image-opts -b base.raw -F raw driver=qcow2,file.filename=top.qcow2
rebase top.qcow2
rebase
rebase -b base.raw
rebase -b base.raw -F raw gone.qcow2
rebase --frobnicate -b base.raw -F raw top.qcow2
rebase -h

amend -o compat=0.10 base.qcow2
amend -o compat=1.1 v2.qcow2
amend -f qcow2 -o compat=v3 v2.qcow2
amend -o lazy_refcounts=on base.qcow2
amend -o lazy_refcounts=on v2.qcow2
amend -o refcount_bits=64 base.qcow2
amend -o refcount_bits=8 v2.qcow2
amend -o size=4M base.qcow2
amend -o backing_file=base.raw,backing_fmt=raw top.qcow2
amend -o cluster_size=4k base.qcow2
amend -o preallocation=metadata base.qcow2
amend -o foo=1 base.qcow2
amend -o help base.qcow2
amend -q -o compat=1.1 v2.qcow2
amend --force -o compat=1.1 v2.qcow2
amend --image-opts -o compat=1.1 driver=qcow2,file.filename=v2.qcow2
amend -p -o compat=1.1 v2.qcow2
amend -t none -o compat=1.1 v2.qcow2
amend -t foo -o compat=1.1 v2.qcow2
amend -o lazy_refcounts=on base.raw
amend base.qcow2
amend -o lazy_refcounts=on
amend
amend -o lazy_refcounts=on gone.qcow2
amend --frobnicate -o compat=1.1 v2.qcow2
amend -h

bitmap --add base.qcow2 b
bitmap --add -g 4k base.qcow2 b
bitmap --add -g 3k base.qcow2 b
bitmap --add -g 128 base.qcow2 b
bitmap --add bitmap.qcow2 b0
bitmap --add --disable base.qcow2 b
bitmap --remove bitmap.qcow2 b0
bitmap --remove bitmap.qcow2 gone
bitmap --clear bitmap.qcow2 b0
bitmap --disable bitmap.qcow2 b0
bitmap --enable bitmap.qcow2 b0
bitmap --disable --clear bitmap.qcow2 b0
bitmap --add --merge b0 bitmap.qcow2 b1
bitmap --merge b0 bitmap.qcow2 gone
bitmap --add --merge b0 -b bitmap.qcow2 -F qcow2 base.qcow2 b1
bitmap --add v2.qcow2 b
bitmap --add base.raw b
bitmap --add -f qcow2 base.qcow2 b
bitmap --add --image-opts driver=qcow2,file.filename=base.qcow2 b
bitmap --add base.qcow2 ""
bitmap --add base.qcow2
bitmap base.qcow2 b
bitmap
bitmap --add gone.qcow2 b
bitmap --frobnicate base.qcow2 b
bitmap -h

dd if=base.raw of=x
dd -f raw -O qcow2 if=base.raw of=x
dd -O raw if=base.qcow2 of=x
dd bs=64k if=base.raw of=x
dd bs=64k count=2 if=base.raw of=x
dd bs=64k skip=2 if=base.raw of=x
dd bs=64k count=2 skip=8 if=base.raw of=x => 0: count counts from skip on, as in dd(1); qemu-img 7.2 copies nothing
dd bs=64k count=100 if=base.raw of=x
dd bs=64k skip=100 if=base.raw of=x
dd bs=1M if=base.raw of=x
dd bs=1000 count=3 if=base.raw of=x
dd count=1 if=base.raw of=x
dd bs=0 if=base.raw of=x
dd bs=lots if=base.raw of=x
dd count=x if=base.raw of=x
dd skip=-1 if=base.raw of=x
dd if=base.raw
dd of=x
dd
dd if=gone.raw of=x
dd if=base.raw of=x foo=1
dd if=base.raw of=x foo
dd -U if=base.raw of=x
dd -f qcow2 if=base.raw of=x
dd -O foo if=base.raw of=x
dd --image-opts if=driver=qcow2,file.filename=base.qcow2 of=x
dd -h

bench -c 10 base.raw => 0: the lines that it prints are others
bench -c 10 -q base.raw
bench -c 10 -f raw base.raw
bench -c 10 -d 4 base.qcow2
bench -c 10 -s 64k base.qcow2
bench -c 10 -S 128k -o 64k base.qcow2
bench -c 10 -w base.qcow2
bench -c 10 -w --pattern=7 base.raw
bench -c 10 -w --flush-interval=2 base.raw
bench -c 10 -w --flush-interval=2 --no-drain base.raw
bench -c 10 -n base.raw => 0: what it asks of the host is not looked at
bench -c 10 -t none base.raw
bench -c 10 -t foo base.raw
bench -c 10 -U base.raw
bench -c 0 base.raw => 1: no request tells nothing
bench -c x base.raw
bench -d x base.raw
bench -s 0 base.raw => 1: requests of no bytes tell nothing
bench -c 10 gone.raw
bench
bench -f qcow2 base.raw
bench -c 10 --pattern=999 -w base.raw
bench --frobnicate base.raw
bench -h
`)
