/** The guest makes a file system on our disk and fills it; the host checks it. */
import { mkdirSync, readFileSync, readdirSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import type { AsyncImageFile } from "../../src/backing/async-image-file.ts"
import type { VirtioBacking } from "../../src/backing/backing.ts"
import { HostFile } from "../../src/backing/host/host-file.ts"
import { openDisk } from "../../src/backing/open-disk-on-node.ts"
import { attachToV86 } from "../../src/vmm/v86/attach.ts"
import { run } from "./cache.ts"
import { type ArchiveEntry, directory, file } from "./cpio.ts"
import { checkClean, contentOf, emptyImage, open, pattern, sha256 } from "./disks.ts"
import { Guest } from "./emulator.ts"
import { initramfs } from "./initramfs.ts"
import { linuxOptions } from "./linux.ts"
import { debianKernel, debianPackages } from "./packages.ts"
import { type GuestContext, type GuestTest, matches, same } from "./suite.ts"

const MIB = 1 << 20

/** mke2fs and e2fsck from Debian's i386 packages, with their libraries. */
export function ext4Tools(): ArchiveEntry[] {
  const root = debianPackages("e2fsprogs", ["e2fsprogs", "libext2fs2", "libblkid1", "libuuid1", "libcom-err2", "libc6", "logsave"])
  const libraries = ["lib/i386-linux-gnu", "usr/lib/i386-linux-gnu"].flatMap((folder) => filesBelow(join(root, folder)))
    .filter(({ name }) => /^(libext2fs|libe2p|libblkid|libuuid|libcom_err|libc|libpthread|ld-linux)\.so\.\d+$/.test(name))
  return [
    directory("sbin"), directory("etc"), directory("lib/i386-linux-gnu"),
    file("etc/mke2fs.conf", readFileSync(join(root, "etc/mke2fs.conf"))),
    ...["mke2fs", "e2fsck"].map((name) => file(`sbin/${name}`, readFileSync(join(root, "sbin", name)), 0o755)),
    ...libraries.map(({ name, path }) => file(`lib/i386-linux-gnu/${name}`, readFileSync(path), 0o755)),
    file("lib/ld-linux.so.2", readFileSync(join(root, "lib/i386-linux-gnu/ld-linux.so.2")), 0o755),
  ]
}

function filesBelow(folder: string): { name: string; path: string }[] {
  try {
    return readdirSync(folder).map((name) => ({ name, path: join(folder, name) }))
  } catch {
    return []
  }
}

/** The image in a file that answers later, of which 1 MiB is kept in memory: whoever forgets a write, or its place, shows in the guest. */
async function openLate(path: string): Promise<VirtioBacking> {
  const file = new HostFile(path)
  const later = <T>(work: () => T): Promise<T> => new Promise((resolve) => setImmediate(() => resolve(work())))
  const source: AsyncImageFile = {
    path, readOnly: false, size: () => later(() => file.size()), read: (buffer, offset) => later(() => file.read(buffer, offset)),
    write: (buffer, offset) => later(() => file.write(buffer, offset)), truncate: (size) => later(() => file.truncate(size)),
    sync: () => later(() => file.sync()), close: () => later(() => file.close()),
  }
  return await openDisk(source, { format: "qcow2", pageCacheSize: MIB })
}

async function ext4(context: GuestContext, openBacking: (path: string) => VirtioBacking | Promise<VirtioBacking>): Promise<string> {
  const path = context.path("ext4.qcow2")
  emptyImage(path, "qcow2", 256 * MIB)
  const payload = pattern(5 * MIB + 123, 7)
  const initrd = initramfs({
    kernel: debianKernel(),
    modules: ["virtio_pci", "virtio_blk", "ext4", "crc32c_generic"],
    files: [file("payload", payload), ...ext4Tools()],
  })
  const backing = await openBacking(path)
  const guest = await Guest.start({ v86: linuxOptions(initrd), attach: (emulator) => attachToV86(emulator, backing), log: context.log })
  await guest.expect(/VIOBLK-READY/)
  await guest.command("/sbin/mke2fs -q -t ext4 -O ^has_journal /dev/vda && /sbin/mke2fs -q -F -t ext4 /dev/vda")
  await guest.command("mount -t ext4 /dev/vda /mnt")
  await guest.command(
    "mkdir /mnt/many && cp /payload /mnt/whole && i=0; while [ $i -lt 300 ]; do echo file $i >/mnt/many/$i; i=$((i+1)); done",
  )
  await guest.command(
    "for n in 1 2 3 4 5 6; do cat /payload /payload >/mnt/twice$n; done; rm /mnt/twice2 /mnt/twice4; ln -s whole /mnt/link",
  )
  const names = "/mnt/whole /mnt/twice1 /mnt/twice3 /mnt/twice5 /mnt/twice6"
  const before = await guest.command(`sync; sha256sum ${names}; cat /mnt/many/* | sha256sum`)
  await guest.command("umount /mnt")
  await guest.command("/sbin/e2fsck -fn /dev/vda")
  await guest.command("echo 3 >/proc/sys/vm/drop_caches; mount -t ext4 /dev/vda /mnt")
  same(await guest.command(`sha256sum ${names}; cat /mnt/many/* | sha256sum`), before, "checksums after umount and mount")
  await guest.command("umount /mnt")
  await guest.stop()
  await backing.close()
  same(before.split(" ")[0], sha256(payload), "SHA-256 of the copied file")
  return `mke2fs, ext4 with 306 files, umount, e2fsck, mount again: checksums hold; ${hostCheck(context, path, payload)}`
}

/** The host's e2fsck and debugfs check the image, as QEMU reads it. */
function hostCheck(context: GuestContext, path: string, payload: Uint8Array): string {
  checkClean(path)
  contentOf(path, "qcow2")
  const raw = `${path}.read-back`
  run("e2fsck", ["-fn", raw])
  const out = context.path("out")
  mkdirSync(out)
  run("debugfs", ["-R", `dump /whole ${join(out, "whole")}`, raw])
  run("debugfs", ["-R", `dump /twice6 ${join(out, "twice")}`, raw])
  same(sha256(readFileSync(join(out, "whole"))), sha256(payload), "SHA-256 of the file, taken out by the host")
  same(sha256(readFileSync(join(out, "twice"))), sha256(Buffer.concat([payload, payload])), "SHA-256 of the second file")
  const features = matches(run("dumpe2fs", ["-h", raw]), /Filesystem features:\s+(.*)/, "dumpe2fs")[1] ?? ""
  writeFileSync(context.path("features"), features)
  return "the host's e2fsck finds nothing, its debugfs the same bytes"
}

export const filesystemTests: readonly GuestTest[] = [
  {
    name: "filesystem", title: "mkfs.ext4, mount, copy, umount, fsck in the guest; e2fsck on the host", limit: 240,
    run: (context) => ext4(context, (path) => open(path, "qcow2")),
  },
  {
    name: "filesystem-late", title: "the same on a file that answers later, with 1 MiB of it in memory", limit: 400,
    run: (context) => ext4(context, openLate),
  },
]
