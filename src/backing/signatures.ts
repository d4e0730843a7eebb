/**
 * The signatures of image formats. openImage does not take a file with one for a raw disk, and a guest may not write one to a raw disk
 * whose format was probed.
 */
import { BackingError } from "./backing.ts"
import type { ImageFile } from "./image-file.ts"

/**
 * The formats of disk images that can be opened and created. "luks" is a LUKS1 volume whose payload is a raw disk. It is never guessed: a
 * raw disk may begin like one, when its guest has encrypted it.
 */
export type ImageFormat = "raw" | "qcow2" | "luks"

/** Formats that we do not read: the first bytes of a file, as Latin-1 text, and the format's name. */
export const FOREIGN_SIGNATURES: readonly (readonly [string, string])[] = [
  ["QED\0", "QED"],
  ["KDMV", "VMDK"],
  ["COWD", "VMDK"],
  ["# Disk DescriptorFile", "VMDK"],
  ["vhdxfile", "VHDX"],
  ["conectix", "VHD"],
  ["<<< ", "VDI"],
  ["WithoutFreeSpace", "Parallels"],
  ["WithouFreSpacExt", "Parallels"],
]

/** Of qcow2, and of qcow version 1, which we do not read. */
export const QCOW_SIGNATURE = "QFI\xfb"

/** Bytes at the start of a file that contain every signature. */
const PROBE_BYTES = 64

/** The format according to the first bytes. @throws BackingError `unsupported` for one that is neither raw nor qcow2 */
export function probeFormat(file: ImageFile): "raw" | "qcow2" {
  const start = new Uint8Array(PROBE_BYTES)
  const length = file.read(start, 0)
  const text = String.fromCharCode(...start.subarray(0, length))
  if (text.startsWith(QCOW_SIGNATURE)) return "qcow2"
  const foreign = FOREIGN_SIGNATURES.find(([signature]) => text.startsWith(signature))
  if (foreign === undefined) return "raw"
  throw new BackingError(
    "unsupported",
    `it looks like a ${foreign[1]} image; convert it with qemu-img, or state the format "raw" if its content is the disk itself`,
    { path: file.path, offset: 0 },
  )
}
