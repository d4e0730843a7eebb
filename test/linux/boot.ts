/** SeaBIOS, unmodified, boots from our disk: a boot sector, then GRUB, kernel and initramfs. */
import { attachToV86 } from "../../src/vmm/v86/attach.ts"
import type { VirtioPciInterface } from "../../src/virtio/pci/pci-options.ts"
import { BOOT_SECTOR, bootSectorDisk, grubDisk } from "./boot-images.ts"
import { run } from "./cache.ts"
import { checkClean, compare, contentOf, type DiskKind, makeImage, open } from "./disks.ts"
import { Guest } from "./emulator.ts"
import { initramfs } from "./initramfs.ts"
import { KERNEL_LINE } from "./linux.ts"
import { debianKernel } from "./packages.ts"
import { type GuestContext, type GuestTest, matches, same } from "./suite.ts"

const SECTOR = 512

async function bootSector(context: GuestContext, pci: VirtioPciInterface, kind: DiskKind): Promise<void> {
  const text = `SECTOR-16-BY-${pci}-${kind}\r\n`
  const before = bootSectorDisk(text)
  const path = context.path(`sector-${pci}-${kind}.img`)
  const format = makeImage(path, kind, before)
  const backing = open(path, format)
  const guest = await Guest.start({
    memory: 32 << 20,
    attach: (emulator) => attachToV86(emulator, backing, { interface: pci }),
    log: context.log,
  })
  const [word] = await guest.expect(new RegExp(`${BOOT_SECTOR.DONE}|${BOOT_SECTOR.FAILED}`))
  same(word, BOOT_SECTOR.DONE, `boot sector, ${pci}`)
  matches(guest.output, new RegExp(text.trim()), `boot sector, ${pci}: text from sector 16`)
  await guest.stop()
  backing.close()
  if (format === "qcow2") checkClean(path)
  const expected = before.slice()
  const { TEXT_SECTOR, TEXT_SECTORS, WRITTEN_SECTOR } = BOOT_SECTOR
  expected.copyWithin(WRITTEN_SECTOR * SECTOR, TEXT_SECTOR * SECTOR, (TEXT_SECTOR + TEXT_SECTORS) * SECTOR)
  compare(contentOf(path, format), expected, `boot sector, ${pci}`)
}

async function sectors(context: GuestContext): Promise<string> {
  for (const pci of ["legacy", "modern", "transitional"] as const) await bootSector(context, pci, "raw")
  await bootSector(context, "transitional", "overlay")
  return "int 13h reads and writes through the legacy, modern and transitional device"
}

/** The disk of `vioblk demo`: SeaBIOS boots it, and it shows its text. */
async function demo(context: GuestContext): Promise<string> {
  const path = context.path("demo.qcow2")
  run(process.execPath, ["--import", "tsx", "src/vmm/cli/main.ts", "demo", "-q", "--text", "VIOBLK-DEMO\nVIOBLK-END", path])
  const backing = open(path, "qcow2")
  const guest = await Guest.start({
    memory: 32 << 20, attach: (emulator) => attachToV86(emulator, backing, { interface: "transitional" }), log: context.log,
  })
  await guest.expect(/VIOBLK-DEMO\s+VIOBLK-END/)
  await guest.stop()
  backing.close()
  checkClean(path)
  return "the disk of vioblk demo shows its text"
}

async function grub(context: GuestContext, pci: VirtioPciInterface): Promise<string> {
  const initrd = initramfs({ kernel: debianKernel(), modules: ["virtio_pci", "virtio_blk", "ext4", "crc32c_generic"] })
  const raw = context.path("grub.raw")
  grubDisk(context, raw, { initrd, commandLine: KERNEL_LINE, mebibytes: 40 })
  const path = context.path("grub.qcow2")
  run("qemu-img", ["convert", "-f", "raw", "-O", "qcow2", "-c", raw, path])
  const backing = open(path, "qcow2")
  const guest = await Guest.start({ attach: (emulator) => attachToV86(emulator, backing, { interface: pci }), log: context.log })
  const started = performance.now()
  await guest.expect(/VIOBLK-GRUB/)
  await guest.expect(/Linux version (\S+)/)
  const loaded = ((performance.now() - started) / 1000).toFixed(1)
  await guest.expect(/VIOBLK-READY/)
  await guest.command("mount -t ext2 /dev/vda1 /mnt")
  const sums = await guest.command("sha256sum /mnt/boot/vmlinuz /mnt/boot/initrd")
  const expected = run("sha256sum", [debianKernel().image]).split(" ")[0]
  same(sums.split(" ")[0], expected, "SHA-256 of the kernel, read in the guest")
  await guest.command("umount /mnt")
  await guest.stop()
  backing.close()
  checkClean(path)
  return `SeaBIOS, GRUB, kernel and initrd from compressed qcow2 by the ${pci} interface in ${loaded} s, then /dev/vda1 mounted`
}

export const bootTests: readonly GuestTest[] = [
  { name: "boot-sector", title: "SeaBIOS boots a boot sector, which reads and writes by int 13h", limit: 60, run: sectors },
  { name: "boot-demo", title: "SeaBIOS boots the disk of vioblk demo", limit: 60, run: demo },
  {
    name: "boot-grub-legacy",
    title: "SeaBIOS boots GRUB and Linux from qcow2, legacy device",
    limit: 300,
    run: (context) => grub(context, "legacy"),
  },
  {
    name: "boot-grub-modern",
    title: "SeaBIOS boots GRUB and Linux from qcow2, modern device",
    limit: 300,
    run: (context) => grub(context, "modern"),
  },
]
