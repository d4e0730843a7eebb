/** Command lines about encrypted images: `luks.qcow2` has key slots 0 and 3, `disk.luks` and `aes.qcow2` have one key each. */
import { type Line, linesOf } from "./line.ts"

/** Passphrases, and the images that the first of them opens. */
const SHORT: Readonly<Record<string, string>> = {
  "@first": "--object secret,id=a,file=first.key",
  "@second": "--object secret,id=b,file=second.key",
  "@third": "--object secret,id=c,file=third.key",
  "@luks.qcow2": "--image-opts driver=qcow2,encrypt.key-secret=a,file.filename=luks.qcow2",
  "@aes.qcow2": "--image-opts driver=qcow2,encrypt.key-secret=a,file.filename=aes.qcow2",
  "@disk.luks": "--image-opts driver=luks,key-secret=a,file.filename=disk.luks",
  "@disk": "driver=luks,key-secret=a,file.filename=disk.luks",
  "@image": "driver=qcow2,encrypt.key-secret=a,file.filename=luks.qcow2",
}

function expanded(text: string): string {
  return text.replace(/@[a-z0-9.]+/g, (word) => SHORT[word] ?? word)
}

export const ENCRYPTED_LINES: readonly Line[] = linesOf(expanded(`
amend @first @third -o encrypt.state=active,encrypt.new-secret=c,encrypt.iter-time=10 @luks.qcow2
amend @first @third -o encrypt.state=active,encrypt.new-secret=c,encrypt.iter-time=0,encrypt.keyslot=7 @luks.qcow2
amend @first @third -o encrypt.state=active,encrypt.new-secret=c,encrypt.iter-time=10,encrypt.keyslot=3 @luks.qcow2
amend --force @first @third -o encrypt.state=active,encrypt.new-secret=c,encrypt.iter-time=10,encrypt.keyslot=0 @luks.qcow2
amend @first @third -o encrypt.state=active,encrypt.new-secret=c,encrypt.keyslot=8 @luks.qcow2
amend @first @third -o encrypt.state=active @luks.qcow2
amend @first @third -o encrypt.new-secret=c @luks.qcow2
amend @first @third -o encrypt.keyslot=3 @luks.qcow2
amend @first @third -o encrypt.state=active,encrypt.new-secret=c,encrypt.old-secret=a @luks.qcow2
amend @first @third -o encrypt.state=active,encrypt.new-secret=q @luks.qcow2
amend @first @third -o encrypt.state=inactive,encrypt.keyslot=3 @luks.qcow2
amend @first @third -o encrypt.state=inactive,encrypt.keyslot=4 @luks.qcow2
amend --force @first -o encrypt.state=inactive,encrypt.keyslot=4 @luks.qcow2
amend @first @third -o encrypt.state=inactive,encrypt.new-secret=c,encrypt.keyslot=3 @luks.qcow2
amend @first -o encrypt.state=inactive,encrypt.iter-time=10,encrypt.keyslot=3 @luks.qcow2
amend @first -o encrypt.state=inactive @luks.qcow2
amend @first @second -o encrypt.state=inactive,encrypt.old-secret=b @luks.qcow2
amend @first -o encrypt.state=inactive,encrypt.old-secret=a @luks.qcow2
amend @first @third -o encrypt.state=inactive,encrypt.old-secret=c @luks.qcow2
amend @first @second -o encrypt.state=inactive,encrypt.old-secret=b,encrypt.keyslot=0 @luks.qcow2
amend @first -o encrypt.state=inactive,encrypt.keyslot=3,lazy_refcounts=on @luks.qcow2
amend @first -o encrypt.state=foo,encrypt.keyslot=3 @luks.qcow2
amend @first -o encrypt.format=luks @luks.qcow2
amend @first -o encrypt.cipher-alg=aes-128 @luks.qcow2
amend -o encrypt.state=inactive,encrypt.keyslot=3 luks.qcow2
amend --object secret,id=a,file=third.key -o encrypt.state=inactive,encrypt.keyslot=3 @luks.qcow2
amend @first -o encrypt.state=active,encrypt.new-secret=a base.qcow2
amend @first @third -o encrypt.state=active,encrypt.new-secret=c @aes.qcow2
amend @first -o compat=0.10 @luks.qcow2
amend @first -o size=2M @luks.qcow2
amend -o lazy_refcounts=on luks.qcow2 => 0: what the guest stores is not looked at, so no passphrase is needed
amend @first -o state=inactive,keyslot=0 @disk.luks
amend --force @first -o state=inactive,keyslot=0 @disk.luks
amend --force @first -o state=inactive,old-secret=a @disk.luks
amend --force @first @third -o state=active,new-secret=c,iter-time=10,keyslot=0 @disk.luks
amend @first @third -o state=active,new-secret=c,iter-time=10 @disk.luks
amend @first @third -o encrypt.state=active,encrypt.new-secret=c @disk.luks
amend @first -o size=2M @disk.luks
amend -f luks -o state=inactive,keyslot=0 disk.luks
measure @first -O luks -o key-secret=a --output=json --size 1G
measure @first -O luks -o key-secret=a,cipher-alg=aes-128 --output=json base.raw
measure @first -O qcow2 -o encrypt.format=luks,encrypt.key-secret=a --output=json --size 1G
measure @first -O qcow2 -o encrypt.format=luks,encrypt.key-secret=a,cluster_size=4k --output=json base.raw
measure -O luks --size 1G
resize @first --image-opts @image 2M
resize @first --shrink --image-opts @image 512k
resize luks.qcow2 2M
snapshot @first -c one @luks.qcow2
snapshot @first -l @luks.qcow2
snapshot -c one luks.qcow2
bitmap @first --add @luks.qcow2 b
bitmap --add luks.qcow2 b
compare @first --image-opts @image @disk
info --output=json luks.qcow2
info luks.qcow2
info --output=json aes.qcow2
info --output=json disk.luks
info -f luks --output=json disk.luks
info disk.luks
info -f raw --output=json disk.luks
`))
