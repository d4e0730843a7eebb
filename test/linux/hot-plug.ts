/** Disks come to a running Linux and leave it: found by a rescan of the bus, or by ACPI hot-plug without one. */
import { mkdirSync, readFileSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { attachToV86, type V86Disk } from "../../src/vmm/v86/attach.ts"
import type { VirtioPciInterface } from "../../src/virtio/pci/pci-options.ts"
import { run } from "./cache.ts"
import { checkClean, contentOf, open, pattern, sha256 } from "./disks.ts"
import { Guest } from "./emulator.ts"
import { initramfs } from "./initramfs.ts"
import { linuxOptions } from "./linux.ts"
import { debianKernel } from "./packages.ts"
import { type GuestContext, type GuestTest, same } from "./suite.ts"

const MIB = 1 << 20
const SLOT = 14

/** A qcow2 image with an ext4 file system that holds one file, and its use by a guest, attached and detached as often as one likes. */
class HotDisk {
  readonly path: string
  readonly payload = pattern(2 * MIB + 77, 21)
  readonly #context: GuestContext
  readonly #name: string
  #written: readonly string[] = []
  #backing: ReturnType<typeof open> | undefined

  constructor(context: GuestContext, name: string) {
    this.#context = context
    this.#name = name
    this.path = context.path(`${name}.qcow2`)
    const [raw, root] = [context.path(`${name}.raw`), context.path(`${name}-root`)]
    mkdirSync(root)
    writeFileSync(join(root, "payload"), this.payload)
    run("qemu-img", ["create", "-q", "-f", "raw", raw, "32M"])
    run("mke2fs", ["-q", "-t", "ext4", "-O", "^metadata_csum_seed,^orphan_file", "-d", root, raw])
    run("qemu-img", ["convert", "-f", "raw", "-O", "qcow2", raw, this.path])
  }

  attach(guest: Guest, pci: VirtioPciInterface = "transitional"): V86Disk {
    this.#backing = open(this.path, "qcow2")
    return attachToV86(guest.emulator, this.#backing, { slot: SLOT, serial: this.#name, interface: pci })
  }

  /** The guest mounts the disk, which must be `device`, reads, and writes the file `name`. */
  async use(guest: Guest, device: string, name: string): Promise<void> {
    same(await guest.command(`cat /sys/block/${device}/serial`), this.#name, "serial of the disk that came")
    await guest.command(`mount -t ext4 /dev/${device} /mnt`)
    same((await guest.command("sha256sum </mnt/payload")).split(" ")[0], sha256(this.payload), "SHA-256 of what the host wrote")
    await guest.command(`cat /mnt/payload /mnt/payload >/mnt/${name}; umount /mnt`)
    this.#written = [...this.#written, name]
  }

  /** To be called when nobody uses it any more: the host finds everything. */
  check(): void {
    this.#backing?.close()
    checkClean(this.path)
    contentOf(this.path, "qcow2")
    const raw = `${this.path}.read-back`
    run("e2fsck", ["-fn", raw])
    for (const name of this.#written) {
      const out = this.#context.path(name)
      run("debugfs", ["-R", `dump /${name} ${out}`, raw])
      same(sha256(readFileSync(out)), sha256(Buffer.concat([this.payload, this.payload])), `SHA-256 of ${name}, taken out by the host`)
    }
  }
}

function boot(
  context: GuestContext,
  options: { readonly acpi: boolean; readonly attach?: (guest: Guest["emulator"]) => void },
): Promise<Guest> {
  const initrd = initramfs({ kernel: debianKernel(), modules: ["virtio_pci", "virtio_blk", "ext4", "crc32c_generic"] })
  return Guest.start({
    v86: { ...linuxOptions(initrd), acpi: options.acpi },
    memory: 128 << 20,
    log: context.log,
    ...(options.attach === undefined ? {} : { attach: options.attach })
  })
}

const interrupts = async (guest: Guest): Promise<number> => Number(
  (await guest.command("grep virtio /proc/interrupts | awk '{ n += $2 } END { print n + 0 }'")).trim(),
)

async function rescan(context: GuestContext): Promise<string> {
  const disk = new HotDisk(context, "rescanned")
  const guest = await boot(context, { acpi: false })
  await guest.expect(/VIOBLK-READY/)
  same(await guest.command("ls /sys/block"), "", "block devices before")
  let count = 0
  for (const name of ["first", "second"]) {
    const attached = disk.attach(guest)
    await guest.command("echo 1 >/sys/bus/pci/rescan")
    await disk.use(guest, "vda", name)
    count += await interrupts(guest)
    await guest.command(`echo 1 >/sys/bus/pci/devices/0000:00:${SLOT.toString(16).padStart(2, "0")}.0/remove`)
    await attached.detach()
    same(await guest.command("ls /sys/block"), "", `block devices after ${name}`)
    disk.check()
  }
  same(count > 10, true, `interrupts of the disk (${count}), more than 10`)
  await guest.stop()
  return `attached, found by a rescan, mounted, written, removed and detached twice; ${count} interrupts; the host finds both files`
}

async function acpi(context: GuestContext): Promise<string> {
  const boots = new HotDisk(context, "there-at-boot")
  const disk = new HotDisk(context, "hot-plugged")
  const fixed = open(boots.path, "qcow2")
  const guest = await boot(context, {
    acpi: true, attach: (emulator) => void attachToV86(emulator, fixed, { slot: 9, serial: "there-at-boot" }),
  })
  await guest.expect(/VIOBLK-READY/)
  const devices = await guest.command("ls /sys/bus/pci/devices")
  same(
    ["00:00.0", "00:01.0", "00:05.0", "00:07.0", "00:09.0"].every((address) => devices.includes(address)),
    true,
    `v86's devices and ours: ${devices}`,
  )
  await boots.use(guest, "vda", "before")
  // Linux 6.1's modern driver waits forever for the reset of a device that is gone (all ones is not 0), and holds up all further
  // hot-plug events meanwhile; its legacy driver does not wait.
  for (const [name, leave, pci] of [
    ["asked", "eject", "transitional"], ["pulled", "detach", "legacy"], ["again", "eject", "transitional"],
  ] as const) {
    const attached = disk.attach(guest, pci)
    await guest.command("until [ -e /sys/block/vdb/serial ]; do usleep 20000; done")
    await disk.use(guest, "vdb", name)
    await attached[leave]()
    await guest.command("while [ -e /sys/block/vdb ]; do usleep 20000; done")
    disk.check()
  }
  await boots.use(guest, "vda", "after")
  const sci = (await guest.command("cat /sys/firmware/acpi/interrupts/gpe01 /sys/firmware/acpi/interrupts/sci")).replace(/\s+/g, " ")
  await guest.stop()
  fixed.close()
  boots.check()
  return `nothing was ejected at boot; a disk came and left three times without a rescan, once without asking; events and SCIs: ${sci}`
}

export const hotPlugTests: readonly GuestTest[] = [
  {
    name: "hot-plug-rescan",
    title: "a running Linux that rescans its bus finds attached disks, and loses detached ones",
    limit: 240,
    run: rescan,
  },
  { name: "hot-plug-acpi", title: "the same with ACPI: Linux is notified, and releases a disk on request", limit: 300, run: acpi },
]
