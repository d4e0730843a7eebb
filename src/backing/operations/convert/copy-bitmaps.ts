/** Copies the persistent dirty bitmaps of one image to another, as `qemu-img convert --bitmaps` does. */
import { BackingError, type VirtioBacking } from "../../backing.ts"
import type { BitmapInfo, Bitmaps } from "../../qcow2/bitmaps/bitmaps.ts"
import { Qcow2Image } from "../../qcow2/image.ts"

/** The bitmaps to copy. "all": refuses an inconsistent one. "consistent": leaves it out. */
export type BitmapChoice = "all" | "consistent"

/** The bitmaps of a qcow2 image; undefined for other disks. */
export function bitmapsOf(disk: VirtioBacking): Bitmaps | undefined {
  return disk instanceof Qcow2Image && disk.geometry.version === 3 ? disk.bitmaps : undefined
}

/** The target of copied bitmaps. */
export interface BitmapTarget {
  /** Bytes of the disk. */
  readonly size: number
  /** Undefined if it does not exist yet: it will be a qcow2 image of version 3. */
  readonly disk: VirtioBacking | undefined
}

/**
 * Chooses the bitmaps to copy, and changes nothing.
 * @throws BackingError `unsupported` if one of the disks cannot have bitmaps; `corrupt` for an inconsistent bitmap; `exists` for one that
 * `target` already has; `invalid-argument` if the disks differ in size
 */
export function chooseBitmaps(source: VirtioBacking, choice: BitmapChoice, { size, disk: target }: BitmapTarget): BitmapInfo[] {
  const bitmaps = bitmapsOf(source)
  const refuse = (code: "unsupported" | "corrupt" | "exists" | "invalid-argument", message: string): BackingError =>
    new BackingError(code, `the bitmaps cannot be copied: ${message}`)
  if (bitmaps === undefined) throw refuse("unsupported", "the source is not a qcow2 image of version 3, so it has none")
  const all = bitmaps.list()
  const broken = all.find(({ isConsistent }) => !isConsistent)
  if (broken !== undefined && choice === "all") {
    throw refuse("corrupt", `"${broken.name}" is not consistent; remove it, or have only the consistent ones copied`)
  }
  const chosen = all.filter(({ isConsistent }) => isConsistent)
  if (size !== source.size) throw refuse("invalid-argument", `the target has ${size} bytes, but the source has ${source.size}`)
  if (target === undefined) return chosen
  const there = bitmapsOf(target)
  if (there === undefined) throw refuse("unsupported", "the target is not a qcow2 image of version 3")
  const names = new Set(there.list().map(({ name }) => name))
  const double = chosen.find(({ name }) => names.has(name))
  if (double !== undefined) throw refuse("exists", `the target has a bitmap "${double.name}" already`)
  return chosen
}

/** Copies the bitmaps `chosen` from `source` to `target`. Closing `target` stores them. */
export function copyBitmaps(source: VirtioBacking, target: VirtioBacking, chosen: readonly BitmapInfo[]): void {
  const [from, to] = [bitmapsOf(source), bitmapsOf(target)]
  if (from === undefined || to === undefined) throw new Error("chooseBitmaps has refused disks without bitmaps")
  for (const { name, granularity, isEnabled } of chosen) {
    to.add(name, { granularity, isEnabled })
    to.merge(name, name, from)
  }
}
