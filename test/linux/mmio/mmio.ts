/**
 * Linux finds disks over MMIO, of both versions, and uses them as it uses those on PCI. Debian's kernel takes virtio_mmio devices neither
 * from its command line nor from a device tree, but from ACPI: the initramfs brings a table that names them, which the kernel adds to the
 * firmware's ([Linux] Documentation/admin-guide/acpi/ssdt-overlays.rst, and CONFIG_ACPI_TABLE_UPGRADE).
 */
import { VirtioBlk } from "../../../src/virtio/blk/device.ts"
import { VirtioMmio } from "../../../src/virtio/mmio/mmio-transport.ts"
import { type V86Ram, V86Memory } from "../../../src/vmm/v86/memory.ts"
import { archive, directory, file } from "../cpio.ts"
import { type Emulator, Guest } from "../emulator.ts"
import { initramfs } from "../initramfs.ts"
import { checkDisks, type Disk, linuxOptions, makeDisk, PAYLOAD, useDisk } from "../linux.ts"
import { debianKernel } from "../packages.ts"
import { type GuestContext, type GuestTest, matches, same } from "../suite.ts"
import { ssdt } from "./ssdt.ts"

/** v86 maps registers in blocks of 128 KiB. */
const BLOCK = 0x2_0000
const BASE = 0xf000_0000
const SIZE = 0x1000
/** Both disks share it. */
const LINE = 5
const PLACES = [0, 1].map((index) => ({ address: BASE + index * BLOCK, size: SIZE, line: LINE }))

/** What of v86's machine is used here. */
interface Cpu extends V86Ram {
  readonly io: {
    mmap_register(
      address: number, size: number, read8: (address: number) => number, write8: (address: number, value: number) => void,
      read32: (address: number) => number, write32: (address: number, value: number) => void,
    ): void
  }
  device_raise_irq(line: number): void
  device_lower_irq(line: number): void
}

/** Puts `disks` at BASE, one in each block. */
function map(emulator: Emulator, disks: readonly { readonly disk: Disk; readonly version: 1 | 2 }[]): void {
  const { cpu } = emulator.v86 as { readonly cpu: Cpu }
  const raised = new Set<number>()
  for (const [index, { disk, version }] of disks.entries()) {
    const base = BASE + index * BLOCK
    const interrupt = (level: boolean): void => {
      if (level) raised.add(index)
      else raised.delete(index)
      if (raised.size > 0) cpu.device_raise_irq(LINE)
      else cpu.device_lower_irq(LINE)
    }
    const blk = new VirtioBlk(disk.backing, { serial: `serial-${disk.kind}`, queues: 2 })
    const mmio = new VirtioMmio(blk, { version, memory: new V86Memory(cpu), interrupt })
    const offset = (address: number): number => (address >>> 0) - base
    cpu.io.mmap_register(
      base, BLOCK, (address) => mmio.read(offset(address), 1), (address, value) => mmio.write(offset(address), 1, value & 0xff),
      (address) => mmio.read(offset(address), 4) | 0, (address, value) => mmio.write(offset(address), 4, value >>> 0),
    )
  }
}

async function linux(context: GuestContext): Promise<string> {
  const disks = [makeDisk(context, "raw", 1), makeDisk(context, "qcow2", 2)] as const
  const kernel = debianKernel()
  const early = archive([
    directory("kernel"), directory("kernel/firmware"), directory("kernel/firmware/acpi"),
    file("kernel/firmware/acpi/vioblk.aml", ssdt(PLACES)),
  ])
  const main = initramfs({ kernel, modules: ["virtio_mmio", "virtio_blk"], files: [file("payload", PAYLOAD)] })
  const initrd = new Uint8Array(Buffer.concat([early, new Uint8Array(main)])).buffer
  const attach = (emulator: Emulator): void =>
    emulator.add_listener("emulator-ready", () => map(emulator, [{ disk: disks[0], version: 2 }, { disk: disks[1], version: 1 }]))
  const guest = await Guest.start({ v86: { ...linuxOptions(initrd), acpi: true }, attach, log: context.log })
  await guest.expect(/VIOBLK-READY/)
  const names: string[] = []
  for (const index of [0, 1]) names.push(await guest.command(`ls /sys/bus/platform/devices/LNRO0005:0${index}/virtio*/block`))
  same([...names].sort().join(), "vda,vdb", "the disks by their names")
  await useDisk(guest, disks[0], names[0] ?? "", false)
  await useDisk(guest, disks[1], names[1] ?? "", true)
  const interrupts = matches(await guest.command("cat /proc/interrupts"), /^ *\d+: +(\d+) .*virtio\d, virtio\d/m, "interrupts of both")
  await guest.command("sync")
  await guest.stop()
  checkDisks(disks)
  return `virtio_mmio of version 2 and 1 on one line, ${interrupts[1]} interrupts; read, written, found by QEMU; images clean`
}

export const mmioTests: readonly GuestTest[] = [
  { name: "linux-mmio", title: "Linux finds, reads and writes disks over MMIO, version 2 and version 1", limit: 900, run: linux },
]
