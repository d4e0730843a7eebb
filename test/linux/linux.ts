/** Linux finds our disks, reads what the host wrote, and writes what the host then reads, through the modern and the legacy interface. */
import { attachToV86 } from "../../src/vmm/v86/attach.ts"
import { file } from "./cpio.ts"
import { checkClean, compare, contentOf, type DiskKind, makeImage, open, pattern, sha256 } from "./disks.ts"
import { type Emulator, Guest } from "./emulator.ts"
import { initramfs } from "./initramfs.ts"
import { debianKernel, fileBuffer } from "./packages.ts"
import { type GuestContext, type GuestTest, same } from "./suite.ts"

const MIB = 1 << 20
/** No watchdog: when the host is slow its messages would mix with a command's output. */
export const KERNEL_LINE = "console=ttyS0 tsc=reliable mitigations=off random.trust_cpu=on panic=-1 nowatchdog"

/** v86's options to boot Debian's kernel with `initrd` and no disk of v86's own. */
export function linuxOptions(initrd: ArrayBuffer, more = ""): Record<string, unknown> {
  return { bzimage: { buffer: fileBuffer(debianKernel().image) }, initrd: { buffer: initrd }, cmdline: `${KERNEL_LINE} ${more}` }
}

/** A disk of 64 MiB and what was on it before the guest came. */
export interface Disk {
  readonly kind: DiskKind
  readonly path: string
  readonly format: "raw" | "qcow2"
  readonly before: Uint8Array
  readonly backing: ReturnType<typeof open>
}

/** What the guest writes, to several places of each disk. */
export const PAYLOAD = pattern(3 * MIB + 512, 99)

/** 64 MiB: 4 MiB of pattern at 16 MiB, zeroes elsewhere. */
export function makeDisk(context: GuestContext, kind: DiskKind, seed: number): Disk {
  const before = new Uint8Array(64 * MIB)
  before.set(pattern(4 * MIB, seed), 16 * MIB)
  const path = context.path(`${kind}.img`)
  const format = makeImage(path, kind, before)
  return { kind, path, format, before, backing: open(path, format) }
}

async function linux(context: GuestContext, driver: "modern" | "packed" | "legacy"): Promise<string> {
  const legacy = driver === "legacy"
  const disks = [makeDisk(context, "raw", 1), makeDisk(context, "qcow2", 2), makeDisk(context, "overlay", 3)]
  const initrd = initramfs({
    kernel: debianKernel(), modules: ["virtio_pci", "virtio_blk"], moduleArguments: legacy ? { virtio_pci: "force_legacy=1" } : {},
    files: [file("payload", PAYLOAD)],
  })
  const attach = (emulator: Emulator): void => {
    const withFeatures = driver === "packed" ? ["RING_PACKED"] as const : []
    for (const disk of disks) attachToV86(emulator, disk.backing, { serial: `serial-${disk.kind}`, withFeatures })
  }
  const guest = await Guest.start({ v86: linuxOptions(initrd), attach, log: context.log })
  await guest.expect(/VIOBLK-READY/)
  for (const [index, disk] of disks.entries()) {
    const name = `vd${"abc"[index]}`
    await useDisk(guest, disk, name, legacy)
    const features = await guest.command(`cat /sys/block/${name}/device/features`)
    same(features[34], driver === "packed" ? "1" : "0", `${disk.kind}: VIRTIO_F_RING_PACKED`)
  }
  await guest.command("sync")
  await guest.stop()
  checkDisks(disks)
  const written = Math.floor((WRITES.length * PAYLOAD.length) / MIB)
  return `raw, qcow2, overlay as vda, vdb, vdc: sizes, serials, 4 MiB read, ${written} MiB written to each and found by QEMU; images clean`
}

/** Where the payload is written, in bytes: where there is data, where there is none, across both, and up to the end of the disk. */
const WRITES = [17 * MIB + 512, 40 * MIB, 19 * MIB + 1536 + 65536, 64 * MIB - (3 * MIB + 512)]

/** QEMU finds on the disks what the guest wrote, and nothing else; the images are clean. */
export function checkDisks(disks: readonly Disk[]): void {
  for (const disk of disks) {
    disk.backing.close()
    if (disk.format === "qcow2") checkClean(disk.path)
    const expected = disk.before.slice()
    for (const at of WRITES) expected.set(PAYLOAD, at)
    compare(contentOf(disk.path, disk.format), expected, disk.kind)
  }
}

/** The guest looks at the disk, which it calls `name`, reads it, and writes it. `legacy`: how its driver must have negotiated. */
export async function useDisk(guest: Guest, disk: Disk, name: string, legacy: boolean): Promise<void> {
  same(await guest.command(`cat /sys/block/${name}/size`), String((64 * MIB) / 512), `${disk.kind}: size in sectors`)
  same(await guest.command(`cat /sys/block/${name}/serial`), `serial-${disk.kind}`, `${disk.kind}: serial`)
  // Only a modern driver accepts VERSION_1, bit 32.
  const features = await guest.command(`cat /sys/block/${name}/device/features`)
  same(features.length === 64 ? features[32] : features, legacy ? "0" : "1", `${disk.kind}: VIRTIO_F_VERSION_1`)
  const read = await guest.command(`dd if=/dev/${name} bs=64k skip=256 count=64 2>/dev/null | sha256sum`)
  same(read.split(" ")[0], sha256(disk.before.subarray(16 * MIB, 20 * MIB)), `${disk.kind}: SHA-256 of what the host wrote`)
  for (const at of WRITES) {
    await guest.command(`dd if=/payload of=/dev/${name} bs=64k seek=${at} oflag=seek_bytes conv=fsync,notrunc 2>/dev/null`)
  }
  await guest.command("echo 3 >/proc/sys/vm/drop_caches")
  const back = await guest.command(
    `dd if=/dev/${name} bs=64k skip=${40 * MIB} count=${PAYLOAD.length} iflag=skip_bytes,count_bytes 2>/dev/null | sha256sum`,
  )
  same(back.split(" ")[0], sha256(PAYLOAD), `${disk.kind}: SHA-256 of what the guest wrote`)
}

export const linuxTests: readonly GuestTest[] = [
  {
    name: "linux-modern",
    title: "Linux finds, reads and writes raw, qcow2 and overlay disks, modern interface",
    limit: 300,
    run: (context) => linux(context, "modern"),
  },
  { name: "linux-packed", title: "the same over packed rings", limit: 300, run: (context) => linux(context, "packed") },
  { name: "linux-legacy", title: "the same over the legacy interface", limit: 300, run: (context) => linux(context, "legacy") },
]
