/** v86's own IDE drives over our disks: SeaBIOS and GRUB boot from hda, Linux reads and writes it, and hears of the errors of hdb. */
import { BackingError, type VirtioBacking } from "../../src/backing/backing.ts"
import { MemoryBacking } from "../../src/backing/memory.ts"
import { v86Buffer } from "../../src/vmm/v86/buffer.ts"
import { BOOT_SECTOR, bootSectorDisk, grubDisk } from "./boot-images.ts"
import { run } from "./cache.ts"
import { checkClean, compare, contentOf, makeImage, open } from "./disks.ts"
import { type Emulator, Guest } from "./emulator.ts"
import { initramfs } from "./initramfs.ts"
import { KERNEL_LINE } from "./linux.ts"
import { debianKernel } from "./packages.ts"
import { type GuestContext, type GuestTest, matches, same } from "./suite.ts"

const SECTOR = 512
const MIB = 1 << 20

/** `disk`, answering in a later turn of the event loop. */
function late(disk: VirtioBacking): VirtioBacking {
  const later = (act: () => void | Promise<void>): Promise<void> => new Promise((resolve) => setImmediate(resolve)).then(act)
  return {
    asynchronous: true, size: disk.size, readOnly: disk.readOnly,
    pread: (buffer, offset) => later(() => disk.pread(buffer, offset)),
    pwrite: (buffer, offset) => later(() => disk.pwrite(buffer, offset)),
    flush: () => later(() => disk.flush?.()), close: () => disk.close(),
  }
}

async function bootSector(context: GuestContext): Promise<string> {
  const text = "SECTOR-16-BY-IDE\r\n"
  const before = bootSectorDisk(text)
  const path = context.path("sector.qcow2")
  const format = makeImage(path, "overlay", before)
  const backing = open(path, format)
  const guest = await Guest.start({ memory: 32 << 20, v86: { hda: v86Buffer(backing) }, log: context.log })
  const [word] = await guest.expect(new RegExp(`${BOOT_SECTOR.DONE}|${BOOT_SECTOR.FAILED}`))
  same(word, BOOT_SECTOR.DONE, "boot sector")
  matches(guest.output, new RegExp(text.trim()), "text from sector 16")
  await guest.stop()
  backing.close()
  checkClean(path)
  const expected = before.slice()
  const { TEXT_SECTOR, TEXT_SECTORS, WRITTEN_SECTOR } = BOOT_SECTOR
  expected.copyWithin(WRITTEN_SECTOR * SECTOR, TEXT_SECTOR * SECTOR, (TEXT_SECTOR + TEXT_SECTORS) * SECTOR)
  compare(contentOf(path, format), expected, "boot sector")
  return "int 13h reads and writes a qcow2 overlay through v86's own drive"
}

/** A disk of which one MiB cannot be read and another one cannot be written. */
class BadDisk extends MemoryBacking {
  constructor() {
    super({ size: 64 * MIB })
  }

  override pread(buffer: Uint8Array, offset: number): void {
    if (Math.floor(offset / MIB) === 8) throw new BackingError("io", "a bad place", { offset })
    super.pread(buffer, offset)
  }

  override pwrite(buffer: Uint8Array, offset: number): void {
    if (Math.floor(offset / MIB) === 16) throw new BackingError("io", "a bad place", { offset })
    super.pwrite(buffer, offset)
  }
}

async function linux(context: GuestContext): Promise<string> {
  const raw = context.path("ide.raw")
  const initrd = initramfs({ kernel: debianKernel(), modules: ["ata_piix", "sd_mod", "ext4", "crc32c_generic"] })
  grubDisk(context, raw, { initrd, commandLine: KERNEL_LINE, mebibytes: 64 })
  const path = context.path("ide.qcow2")
  run("qemu-img", ["convert", "-f", "raw", "-O", "qcow2", "-c", raw, path])
  const image = open(path, "qcow2")
  const errors: unknown[] = []
  const machine: { emulator?: Emulator } = {}
  const emulator = (): unknown => machine.emulator
  const onError = (error: unknown): void => void errors.push(error)
  const hda = v86Buffer(late(image), { emulator, onError })
  const guest = await Guest.start({
    v86: { hda, hdb: v86Buffer(new BadDisk(), { emulator, onError }) }, log: context.log,
    attach: (made) => {
      machine.emulator = made
    },
  })
  await guest.expect(/VIOBLK-GRUB/)
  await guest.expect(/VIOBLK-READY/)
  await guest.command("mount -t ext2 /dev/sda1 /mnt")
  const sums = await guest.command("sha256sum /mnt/boot/vmlinuz")
  const expected = run("sha256sum", [debianKernel().image]).split(" ")[0]
  same(sums.split(" ")[0], expected, "SHA-256 of the kernel, read in the guest")
  await guest.command(
    "cp /mnt/boot/vmlinuz /mnt/copy; sync; echo 3 >/proc/sys/vm/drop_caches; cmp /mnt/boot/vmlinuz /mnt/copy; umount /mnt",
  )
  same(errors.length, 0, "errors of a disk without bad places")
  const seconds = await badPlaces(guest)
  await hda.flush()
  await guest.stop()
  same(errors.length > 0 && errors.every((error) => error instanceof BackingError), true, "errors told to the embedder")
  image.close()
  checkClean(path)
  run("sh", [
    "-c",
    'qemu-img convert -O raw "$1" "$2" && dd if="$2" of="$2.part" bs=1M skip=1 status=none && e2fsck -fn "$2.part"',
    "sh",
    path,
    raw,
  ])
  return `GRUB and Linux from compressed qcow2 as v86's hda; a file written, image and file system clean; I/O errors after ${seconds} s`
}

/** Reads and writes around the bad places of sdb. Returns the seconds that the errors took. */
async function badPlaces(guest: Guest): Promise<string> {
  await guest.command("dd if=/dev/sdb of=/dev/null bs=1M count=8 iflag=direct 2>/dev/null")
  const started = performance.now()
  const read = await guest.command("if dd if=/dev/sdb of=/dev/null bs=4k skip=2048 count=1 iflag=direct; then false; else true; fi")
  matches(read, /Input\/output error|I\/O error/, "a read of the bad place")
  const write = await guest.command("if dd if=/dev/zero of=/dev/sdb bs=4k seek=4096 count=1 oflag=direct; then false; else true; fi")
  matches(write, /Input\/output error|I\/O error/, "a write of the bad place")
  const seconds = ((performance.now() - started) / 1000).toFixed(1)
  same(Number(seconds) < 25, true, `seconds for errors (${seconds}), fewer than the 30 of a command that is not answered`)
  await guest.command("dd if=/dev/sdb of=/dev/null bs=1M skip=9 count=8 iflag=direct 2>/dev/null")
  return seconds
}

export const ideTests: readonly GuestTest[] = [
  { name: "ide-sector", title: "SeaBIOS boots a boot sector from v86's own drive over qcow2", limit: 60, run: bootSector },
  { name: "ide-linux", title: "GRUB and Linux on v86's own drives over our disks, errors among them", limit: 480, run: linux },
]
