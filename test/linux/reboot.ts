/**
 * A reboot while a slow disk still has requests of the old life: the BIOS boots from the disk again, and nothing of the old life is stored.
 */
import type { VirtioBacking } from "../../src/backing/backing.ts"
import type { VirtioPciInterface } from "../../src/virtio/pci/pci-options.ts"
import { attachToV86, type V86Disk } from "../../src/vmm/v86/attach.ts"
import { grubDisk } from "./boot-images.ts"
import { run } from "./cache.ts"
import { checkClean, open } from "./disks.ts"
import { type Emulator, Guest } from "./emulator.ts"
import { initramfs } from "./initramfs.ts"
import { KERNEL_LINE } from "./linux.ts"
import { debianKernel } from "./packages.ts"
import { type GuestContext, type GuestTest, same } from "./suite.ts"

const DRIVER_OK = 4
/** The file system ends here; behind it there is room to write to. In MiB. */
const FILE_SYSTEM = 40

/** A disk that answers later, and not before it is let go when `holding` is set. */
class HeldDisk implements VirtioBacking {
  readonly asynchronous = true
  readonly size: number
  readonly readOnly: boolean
  holding = false
  readonly #disk: VirtioBacking
  readonly #held = { read: [] as (() => void)[], write: [] as (() => void)[] }

  constructor(disk: VirtioBacking) {
    this.#disk = disk
    this.size = disk.size
    this.readOnly = disk.readOnly
  }

  /** Requests that wait for `letGo`. */
  held(kind: "read" | "write"): number {
    return this.#held[kind].length
  }

  letGo(kind: "read" | "write"): void {
    for (const answer of this.#held[kind].splice(0)) answer()
  }

  async pread(buffer: Uint8Array, offset: number): Promise<void> {
    await this.#turn("read")
    await this.#disk.pread(buffer, offset)
  }

  async pwrite(buffer: Uint8Array, offset: number): Promise<void> {
    await this.#turn("write")
    await this.#disk.pwrite(buffer, offset)
  }

  async flush(): Promise<void> {
    await this.#turn("write")
    await this.#disk.flush?.()
  }

  close(): void | Promise<void> {
    return this.#disk.close()
  }

  #turn(kind: "read" | "write"): Promise<void> {
    return new Promise((resolve) => {
      if (this.holding) this.#held[kind].push(resolve)
      else setImmediate(resolve)
    })
  }
}

async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await new Promise((resolve) => setTimeout(resolve, 5))
}

/** Counts what devices of ours store into the guest's RAM from now on. */
function countStores(emulator: Emulator): () => number {
  const { cpu } = emulator.v86 as { cpu: { jit_dirty_cache(start: number, end: number): void } }
  const before = cpu.jit_dirty_cache.bind(cpu)
  let stores = 0
  cpu.jit_dirty_cache = (start, end) => {
    stores++
    before(start, end)
  }
  return () => stores
}

async function reboot(context: GuestContext, pci: VirtioPciInterface, restart: (guest: Guest) => void): Promise<string> {
  const path = await bootDisk(context)
  const image = open(path, "qcow2")
  const held = new HeldDisk(image)
  let disk: V86Disk | undefined
  const guest = await Guest.start({ memory: 128 << 20, log: context.log, attach: (emulator) => {
    disk = attachToV86(emulator, held, { interface: pci })
  } })
  await guest.expect(/VIOBLK-GRUB/)
  await guest.expect(/VIOBLK-READY/)
  await guest.command("for n in 1 2; do while :; do dd if=/dev/vda of=/dev/null bs=64k count=64 iflag=direct 2>/dev/null; done & done")
  const write = `dd if=/dev/urandom of=/dev/vda bs=64k seek=${FILE_SYSTEM * 16} count=16 oflag=direct conv=notrunc 2>/dev/null`
  await guest.command(`(while :; do ${write}; done) & true`)
  held.holding = true
  await until(() => held.held("read") > 1 && held.held("write") > 0)
  const old = { reads: held.held("read"), writes: held.held("write") }
  restart(guest)
  await until(() => disk?.device.virtio.status === 0)
  // SeaBIOS has reset the device, without waiting, and set it up again
  await until(() => ((disk?.device.virtio.status ?? 0) & DRIVER_OK) !== 0)
  const stores = countStores(guest.emulator)
  held.letGo("read")
  for (let turn = 0; turn < 20; turn++) await new Promise((resolve) => setImmediate(resolve))
  same(stores(), 0, "stores into RAM after the reboot, by reads from before it")
  held.holding = false
  held.letGo("write")
  await guest.expect(/VIOBLK-GRUB/)
  await guest.expect(/VIOBLK-READY/)
  await guest.command("mount -t ext2 -o ro /dev/vda1 /mnt")
  const sum = await guest.command("sha256sum </mnt/boot/vmlinuz")
  same(sum.split(" ")[0], run("sha256sum", [debianKernel().image]).split(" ")[0], "SHA-256 of the kernel, read after the reboot")
  await guest.command("umount /mnt")
  await guest.stop()
  image.close()
  checkClean(path)
  return `rebooted with ${old.reads} reads and ${old.writes} writes in flight; they stored nothing; SeaBIOS, GRUB and Linux came up again`
}

async function bootDisk(context: GuestContext): Promise<string> {
  const [raw, path] = [context.path("reboot.raw"), context.path("reboot.qcow2")]
  const initrd = initramfs({ kernel: debianKernel(), modules: ["virtio_pci", "virtio_blk", "ext4", "crc32c_generic"] })
  grubDisk(context, raw, { initrd, commandLine: `${KERNEL_LINE} quiet`, mebibytes: FILE_SYSTEM })
  run("qemu-img", ["convert", "-f", "raw", "-O", "qcow2", raw, path])
  run("qemu-img", ["resize", "-q", "-f", "qcow2", path, `${FILE_SYSTEM + 1}M`])
  return path
}

export const rebootTests: readonly GuestTest[] = [
  {
    name: "reboot-guest",
    title: "Linux reboots while its disk has requests in flight, legacy device",
    limit: 420,
    run: (context) => reboot(context, "legacy", (guest) => guest.emulator.serial0_send("reboot -f\n")),
  },
  {
    name: "reboot-restart",
    title: "the machine restarts while its disk has requests in flight, modern device",
    limit: 420,
    run: (context) => reboot(context, "modern", (guest) => guest.emulator.restart()),
  },
]
