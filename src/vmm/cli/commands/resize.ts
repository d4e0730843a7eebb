/** `vioblk resize`: changes the size of a disk. Exit codes as those of `qemu-img resize`. */
import { openImage } from "../../../backing/open.ts"
import { RawBacking } from "../../../backing/raw.ts"
import { type Arguments, nameOf, sizeOf, UsageError } from "../arguments.ts"
import { imageNamed } from "../image-name.ts"
import { complain, print } from "../output.ts"

type Preallocation = "off" | "metadata" | "falloc" | "full"

/** Bytes of zeroes that are written at a time. */
const PIECE = 1 << 20

export async function resize(given: Arguments): Promise<number> {
  const [name, text, extra] = given.words
  if (extra !== undefined) throw new UsageError(`resize takes one image and one size: "${extra}" is one word too many`)
  const change = nameOf("size", text)
  const { path, format, passphrase } = imageNamed(given, name)
  const preallocation = given.choice<Preallocation>("preallocation", ["off", "metadata", "falloc", "full"]) ?? "off"
  const shrink = given.flag("shrink")
  using disk = openImage(path, { passphrase, ...(format !== undefined && { format }) })
  const before = disk.size
  const size = newSize(before, change)
  if (size <= 0) return refuse(path, `the new size ${size} must be positive`)
  if (size < before && !shrink) {
    return refuse(path, `${size} bytes are less than ${before}; what is cut off is lost, so --shrink has to allow it`)
  }
  if (size <= before && preallocation !== "off") return refuse(path, "preallocation is for disks that grow")
  if (!(disk instanceof RawBacking)) disk.resize(size, { shrink, preallocation })
  else if (preallocation === "metadata") return refuse(path, "a raw image has no metadata to preallocate")
  else {
    disk.resize(size, { shrink })
    fill(disk, before, preallocation)
  }
  if (!given.flag("quiet")) print("Image resized.")
  return 0
}

function refuse(path: string, why: string): number {
  complain(`${path}: ${why}`)
  return 1
}

/** "+1G" and "-1G" are from the size that is. */
function newSize(before: number, text: string): number {
  const size = sizeOf("the size", text.replace(/^[+-]/, ""))
  return text.startsWith("+") ? before + size : text.startsWith("-") ? before - size : size
}

/** Gives what is new in a raw image its space. */
function fill(disk: RawBacking, from: number, preallocation: Preallocation): void {
  if (preallocation === "off") return
  // The host keeps the space of what it zeroes itself; short ranges it would leave out.
  if (preallocation === "falloc" && disk.zeroesAtOnce > PIECE) disk.writeZeroes(from, disk.size - from, false)
  else for (let at = from; at < disk.size; at += PIECE) disk.pwrite(new Uint8Array(Math.min(PIECE, disk.size - at)), at)
  disk.flush()
}
