/** `vioblk resize`: changes the size of a disk. Exit codes as those of `qemu-img resize`. */
import { BackingError } from "../../../backing/backing.ts"
import { openImage } from "../../../backing/open.ts"
import type { Qcow2Image } from "../../../backing/qcow2/image.ts"
import { RawBacking } from "../../../backing/raw.ts"
import { type Arguments, nameOf, sizeOf, UsageError } from "../arguments.ts"
import { imageNamed } from "../image-name.ts"
import { stoppable, turn } from "../long-work.ts"
import { complain, print } from "../output.ts"

type Preallocation = "off" | "metadata" | "falloc" | "full"

/** Bytes of zeroes that are written at a time. */
const PIECE = 1 << 20
/** Bytes by which a disk with preallocation grows between two chances to stop. */
const STEP = 1 << 28

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
    return refuse(path, `${size} bytes are less than ${before}; the data beyond would be lost, so it needs --shrink`)
  }
  if (size <= before && preallocation !== "off") return refuse(path, "preallocation is for disks that grow")
  if (disk instanceof RawBacking && preallocation === "metadata") return refuse(path, "a raw image has no metadata to preallocate")
  if (preallocation === "off") disk.resize(size, { shrink })
  else await stoppable(`${path} has its old size of ${before} bytes`, (signal) => grow(disk, { size, preallocation, signal }))
  if (!given.flag("quiet")) print("Image resized.")
  return 0
}

function refuse(path: string, why: string): number {
  complain(`${path}: ${why}`)
  return 1
}

/** "+1G" and "-1G" are relative to the present size. */
function newSize(before: number, text: string): number {
  const size = sizeOf("the size", text.replace(/^[+-]/, ""))
  return text.startsWith("+") ? before + size : text.startsWith("-") ? before - size : size
}

interface Growth {
  readonly size: number
  readonly preallocation: Preallocation
  readonly signal: AbortSignal
}

/** Grows the disk step by step. If it is stopped, or there is no more room, restores the old size. */
async function grow(disk: RawBacking | Qcow2Image, { size, preallocation, signal }: Growth): Promise<void> {
  const before = disk.size
  try {
    while (disk.size < size) {
      const next = Math.min(disk.size + STEP, size)
      if (disk instanceof RawBacking) growRaw(disk, next, preallocation)
      else disk.resize(next, { preallocation })
      await turn(signal)
    }
  } catch (error) {
    const hasNoRoom = error instanceof BackingError && error.code === "no-space"
    if (disk.size > before || hasNoRoom) restore(disk, before)
    throw error
  }
}

/** @throws BackingError that says which size the disk has, if it is not the old one */
function restore(disk: RawBacking | Qcow2Image, before: number): void {
  try {
    disk.resize(before, { shrink: true })
  } catch (error) {
    if (!(error instanceof BackingError)) throw error
    // What failed had not changed the size yet, and says so itself.
    if (disk.size === before) return
    const remedy = `free some space, and run vioblk resize --shrink with ${before}`
    throw new BackingError(error.code, `the disk has ${disk.size} bytes now; ${remedy}`, { path: disk.path, cause: error })
  }
}

/** Allocates the space of the new part of a raw image. */
function growRaw(disk: RawBacking, size: number, preallocation: Preallocation): void {
  const from = disk.size
  disk.resize(size)
  // Zeroing by the host allocates space, but it leaves out short ranges, which are written instead.
  if (preallocation === "falloc" && disk.zeroesAtOnce > PIECE) disk.writeZeroes(from, size - from, false)
  else for (let at = from; at < size; at += PIECE) disk.pwrite(new Uint8Array(Math.min(PIECE, size - at)), at)
  disk.flush()
}
