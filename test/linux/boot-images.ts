/** Disks that a BIOS boots from: a boot sector of our own, and GRUB with a kernel on a file system. No image is mounted to make them. */
import { closeSync, copyFileSync, mkdirSync, openSync, readFileSync, writeFileSync, writeSync } from "node:fs"
import { join } from "node:path"
import { run } from "./cache.ts"
import { initramfs } from "./initramfs.ts"
import { KERNEL_LINE } from "./linux.ts"
import { debianKernel, debianPackages } from "./packages.ts"
import { GuestContext } from "./suite.ts"

const SECTOR = 512
const MIB = 1 << 20

/** What a test sees of the boot sector's program. */
export const BOOT_SECTOR = {
  TEXT_SECTOR: 16, TEXT_SECTORS: 8, WRITTEN_SECTOR: 100, DONE: "VIOBLK-WRITTEN", FAILED: "VIOBLK-INT13-FAILED",
} as const

/**
 * Real-mode code at 0x7C00: reads 8 sectors from sector 16 to 0x8000 (int 13h, AH=42h), prints that text on COM1, writes the same 8
 * sectors to sector 100 (AH=43h), prints VIOBLK-WRITTEN and halts; VIOBLK-INT13-FAILED when the BIOS reports an error.
 */
const BOOT_CODE = [
  "fa 31c0 8ed8 8ec0 8ed0 bc007c fb fc", //              cli; ds = es = ss = 0; sp = 0x7C00; sti; cld
  "be577c b442 cd13 721e", //                            si = packet; ah = 42h; int 13h; jc failed
  "be0080 e82000", //                                    si = 0x8000; call print
  "c6065f7c64 be577c b80043 cd13 7209", //               packet.lba = 100; ah = 43h; int 13h; jc failed
  "be677c e80b00 f4 ebfd", //                            print done; halt
  "be787c e80200 ebf5", //                               failed: print; halt
  "52 ac 84c0 7412 88c3 bafd03 ec a820 74f8 88d8 baf803 ee ebe9 5a c3", // print, keeps dl: sends each byte when the line status says empty
  "1000 0800 0080 0000 1000000000000000", //             packet: 8 sectors, to 0000:8000, from sector 16
].join("").replaceAll(" ", "")

/** A disk of 1 MiB with that boot sector and `text` in sector 16. */
export function bootSectorDisk(text: string): Uint8Array {
  const disk = new Uint8Array(MIB)
  disk.set(Buffer.from(BOOT_CODE, "hex"))
  disk.set(Buffer.from(`${BOOT_SECTOR.DONE}\r\n\0${BOOT_SECTOR.FAILED}\r\n\0`), BOOT_CODE.length / 2)
  disk.set([0x55, 0xaa], SECTOR - 2)
  disk.set(Buffer.from(`${text}\0`), BOOT_SECTOR.TEXT_SECTOR * SECTOR)
  return disk
}

const PARTITION_START = 2048 // sectors

/**
 * Makes a raw disk at `path`: GRUB in the master boot record and the gap after it, and one partition with an ext2 file system that
 * holds Debian's kernel and `initrd`. The files in the folder `root` are copied to the file system too.
 */
export function grubDisk(
  context: GuestContext,
  path: string,
  options: {
    readonly initrd: ArrayBuffer
    readonly commandLine: string
    readonly mebibytes: number
    readonly root?: string
    readonly type?: string
  },
): void {
  const root = options.root ?? context.path("boot-root")
  mkdirSync(join(root, "boot"), { recursive: true })
  copyFileSync(debianKernel().image, join(root, "boot/vmlinuz"))
  writeFileSync(join(root, "boot/initrd"), new Uint8Array(options.initrd))
  run("qemu-img", ["create", "-q", "-f", "raw", path, `${options.mebibytes}M`])
  const features = options.type === "ext4" ? ["-O", "^metadata_csum_seed,^orphan_file"] : []
  const place = ["-E", `offset=${PARTITION_START * SECTOR},root_owner=0:0`]
  run("mke2fs", ["-q", "-t", options.type ?? "ext2", "-d", root, ...features, ...place, "-L", "boot", path, `${options.mebibytes - 1}M`])
  installGrub(context, path, options)
}

/** What the guest of `shellDisk` prints last before its shell's prompt. */
export const SHELL_READY = "The disk is /dev/vda, its file system is on /mnt."

/**
 * Makes a disk that boots by itself, as a sparse raw image at `path`: GRUB, Debian's kernel, and busybox with a shell on the serial line.
 */
export function shellDisk(path: string, mebibytes: number): void {
  const context = new GuestContext(() => undefined)
  try {
    const script = `mount -t ext2 /dev/vda1 /mnt
exec </dev/ttyS0 >/dev/ttyS0 2>&1
echo
echo '${SHELL_READY}'
exec setsid -c sh`
    const initrd = initramfs({ kernel: debianKernel(), modules: ["virtio_pci", "virtio_blk", "ext4", "crc32c_generic"], script })
    grubDisk(context, path, { initrd, commandLine: `${KERNEL_LINE} quiet`, mebibytes })
  } finally {
    context.close()
  }
}

function installGrub(context: GuestContext, path: string, options: { readonly commandLine: string; readonly mebibytes: number }): void {
  const packages = debianPackages("grub", ["grub-common", "grub-pc-bin", "libdevmapper1.02.1", "liblzma5"], "host")
  const configuration = context.path("grub.cfg")
  writeFileSync(configuration, `serial --unit=0 --speed=115200
terminal_output serial
echo VIOBLK-GRUB
set root=(hd0,msdos1)
linux /boot/vmlinuz ${options.commandLine}
initrd /boot/initrd
boot
`)
  const core = context.path("core.img")
  const modules = join(packages, "usr/lib/grub/i386-pc")
  const makeImage = ["-O", "i386-pc", "-d", modules, "-p", "(hd0,msdos1)/boot/grub", "-c", configuration, "-o", core]
  const included = ["biosdisk", "part_msdos", "ext2", "linux", "serial", "terminal", "echo", "boot", "normal"]
  run(join(packages, "usr/bin/grub-mkimage"), [...makeImage, ...included], { env: { LD_LIBRARY_PATH: libraryFolders(packages) } })
  const boot = new Uint8Array(SECTOR)
  boot.set(readFileSync(join(modules, "boot.img")).subarray(0, 440)) // it loads the rest from sector 1 on
  boot.set(partitionEntry(PARTITION_START, (options.mebibytes * MIB) / SECTOR - PARTITION_START), 446)
  boot.set([0x55, 0xaa], SECTOR - 2)
  const image = openSync(path, "r+")
  writeSync(image, boot, 0, SECTOR, 0)
  const rest = readFileSync(core)
  if (rest.length > (PARTITION_START - 1) * SECTOR) throw new Error(`${core}: larger than the gap before the partition`)
  writeSync(image, rest, 0, rest.length, SECTOR)
  closeSync(image)
}

/** An active Linux partition for the master boot record's table, given by sector numbers alone. */
function partitionEntry(start: number, sectors: number): Uint8Array {
  const entry = new DataView(new ArrayBuffer(16))
  entry.setUint32(0, 0x80fe_ffff) // active; first cylinder, head and sector out of range
  entry.setUint32(4, 0x83fe_ffff) // Linux
  entry.setUint32(8, start, true)
  entry.setUint32(12, sectors, true)
  return new Uint8Array(entry.buffer)
}

function libraryFolders(packages: string): string {
  const list = "ls -d \"$1\"/usr/lib/*-linux-gnu \"$1\"/lib/*-linux-gnu 2>/dev/null | tr '\\n' ':'"
  const triplet = run("sh", ["-c", list, "sh", packages]).trim()
  return triplet.replace(/:$/, "")
}
