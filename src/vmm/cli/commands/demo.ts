/** `vioblk demo`: makes a small disk that a virtual machine with a BIOS boots from. */
import { createImage } from "../../../backing/create.ts"
import { removeHostFile } from "../../../backing/host/host-file.ts"
import { openImage } from "../../../backing/open.ts"
import type { Arguments } from "../arguments.ts"
import { UsageError } from "../arguments.ts"
import { bootSectors, DEMO_SIZE } from "../demo/boot-sector.ts"
import { print } from "../output.ts"

const GREETING = "\nThis text is in sector 16 of a disk behind virtio-blk.\nThe BIOS has read it through the device: it works.\n"

export async function demo(given: Arguments): Promise<number> {
  const path = given.image
  const format = given.choice("format", ["raw", "qcow2"]) ?? "qcow2"
  const text = given.text("text") ?? GREETING
  if (!/^[\n\x20-\x7e]{0,4000}$/.test(text)) throw new UsageError("--text: it must be at most 4000 characters of ASCII")
  createImage(path, { format, size: DEMO_SIZE })
  try {
    const image = openImage(path, { format })
    try {
      image.pwrite(bootSectors(text), 0)
      image.flush()
    } finally {
      image.close()
    }
  } catch (error) {
    removeHostFile(path)
    throw error
  }
  if (!given.flag("quiet")) {
    print(`created ${path}: ${format}, a disk that a BIOS boots from; it shows a text on the screen and on the serial line`)
    print(`in QEMU: qemu-system-i386 -drive file=${path},format=${format},if=virtio -nographic`)
  }
  return 0
}
