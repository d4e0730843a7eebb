/** Detects zeroes in writes, and writes them by `writeZeroes`: a qcow2 image then stores nothing, a raw one may keep its holes. */
import { checkValue } from "../../options.ts"
import { closesWithBlock, type Disposing } from "../../disposing.ts"
import { checkBacking, type DiskVersion, totalLength, type VirtioBacking } from "../backing.ts"
import { BufferCursor, isZero, joined } from "../bytes/buffers.ts"

/**
 * How to treat zeroes that the guest writes as data. "off": they are written as data. "on": by `writeZeroes`, which keeps their space.
 * "unmap": by `writeZeroes` that frees their space.
 */
export type DetectZeroes = "off" | "on" | "unmap"

export const DETECT_ZEROES: readonly DetectZeroes[] = ["off", "on", "unmap"]

/**
 * Returns a disk that detects zeroes in writes to `disk`, in pieces of `discardGranularity`, 4 KiB at least. Returns `disk` itself for
 * "off", and if it is read-only, is zoned, or cannot write zeroes. The result owns `disk`: closing it closes `disk`.
 * @throws TypeError for anything but a disk and one of the three words
 */
export function detectZeroes<D extends VirtioBacking>(disk: D, mode: DetectZeroes): D | (VirtioBacking & Disposing) {
  checkBacking("detectZeroes", disk)
  checkValue("detectZeroes", "mode", mode, DETECT_ZEROES)
  if (mode === "off" || disk.readOnly || disk.zones !== undefined || disk.writeZeroes === undefined) return disk
  return Object.assign(new DetectingDisk(disk, disk.writeZeroes.bind(disk), mode === "unmap"), besides(disk))
}

/** Members of an image that a guest does not use: its map, snapshots and bitmaps. */
function besides(disk: object): object {
  const map: unknown = Reflect.get(disk, "map")
  const others = ["snapshots", "bitmaps", "path", "lock"].map((name): [string, unknown] => [name, Reflect.get(disk, name)])
  return {
    ...(typeof map === "function" ? { map: map.bind(disk) as unknown } : {}),
    ...Object.fromEntries(others.filter(([, value]) => value !== undefined)),
  }
}

/** The disk inside a detecting one; any other disk itself. */
export function undetected(disk: object): object {
  return disk instanceof DetectingDisk ? disk.disk : disk
}

const SMALLEST_PIECE = 4096
/** What a disk without `zeroesAtOnce` does at once: see `VirtioBacking`. */
const DEFAULT_AT_ONCE = 1 << 24

type WriteZeroes = NonNullable<VirtioBacking["writeZeroes"]>

/** A part of a write. */
interface Part {
  readonly length: number
  readonly isZero: boolean
}

/** `using` closes it, if its disk is synchronous. */
interface DetectingDisk extends Disposing {}

class DetectingDisk implements VirtioBacking {
  static { closesWithBlock(this) }
  readonly readOnly = false
  readonly asynchronous: boolean
  readonly writeZeroes: WriteZeroes
  // Exactly the optional members of the disk.
  readonly preadInto?: NonNullable<VirtioBacking["preadInto"]>
  readonly pwriteFrom?: NonNullable<VirtioBacking["pwriteFrom"]>
  readonly preadv?: NonNullable<VirtioBacking["preadv"]>
  readonly preadNow?: NonNullable<VirtioBacking["preadNow"]>
  readonly pwriteNow?: NonNullable<VirtioBacking["pwriteNow"]>
  readonly flush?: NonNullable<VirtioBacking["flush"]>
  readonly discard?: NonNullable<VirtioBacking["discard"]>
  readonly secureErase?: NonNullable<VirtioBacking["secureErase"]>
  readonly lifetime?: NonNullable<VirtioBacking["lifetime"]>
  readonly allocation?: NonNullable<VirtioBacking["allocation"]>
  readonly resize?: NonNullable<VirtioBacking["resize"]>
  readonly version?: () => DiskVersion | undefined
  readonly #disk: VirtioBacking
  readonly #isUnmapping: boolean
  readonly #piece: number

  constructor(disk: VirtioBacking, writeZeroes: WriteZeroes, isUnmapping: boolean) {
    this.#disk = disk
    this.#isUnmapping = isUnmapping
    this.#piece = Math.max(disk.discardGranularity ?? 512, SMALLEST_PIECE)
    this.asynchronous = disk.asynchronous === true
    this.writeZeroes = writeZeroes
    const { preadInto, preadv, preadNow, pwriteNow, flush, discard, secureErase, lifetime, allocation, resize, version } = disk
    if (preadInto !== undefined) this.preadInto = preadInto.bind(disk)
    if (preadv !== undefined) this.preadv = preadv.bind(disk)
    if (preadNow !== undefined) this.preadNow = preadNow.bind(disk)
    if (flush !== undefined) this.flush = flush.bind(disk)
    if (discard !== undefined) this.discard = discard.bind(disk)
    if (secureErase !== undefined) this.secureErase = secureErase.bind(disk)
    if (lifetime !== undefined) this.lifetime = lifetime.bind(disk)
    if (allocation !== undefined) this.allocation = allocation.bind(disk)
    if (resize !== undefined) this.resize = resize.bind(disk)
    if (version !== undefined) this.version = version.bind(disk)
    // Zeroes are not written at once here: the device then calls `pwrite`.
    if (pwriteNow !== undefined) {
      this.pwriteNow = (buffers, offset) =>
        !this.#partsOf(buffers, offset).some((part) => part.isZero) && pwriteNow.call(disk, buffers, offset)
    }
    if (disk.pwriteFrom !== undefined && !this.asynchronous) this.pwriteFrom = this.#pwriteFrom.bind(this)
  }

  get disk(): VirtioBacking {
    return this.#disk
  }

  get size(): number {
    return this.#disk.size
  }

  get discardGranularity(): number {
    return this.#disk.discardGranularity ?? 512
  }

  get zeroesAtOnce(): number {
    return this.#disk.zeroesAtOnce ?? DEFAULT_AT_ONCE
  }

  get unmapsAtOnce(): number {
    return this.#disk.unmapsAtOnce ?? this.zeroesAtOnce
  }

  get canUnmap(): boolean {
    return this.#disk.canUnmap ?? this.#disk.discard !== undefined
  }

  get slow(): boolean {
    return this.#disk.slow === true
  }

  get secureEraseAlignment(): number {
    return this.#disk.secureEraseAlignment ?? 512
  }

  pread(buffer: Uint8Array, offset: number): void | Promise<void> {
    return this.#disk.pread(buffer, offset)
  }

  pwrite(buffer: Uint8Array, offset: number): void | Promise<void> {
    return this.pwritev([buffer], offset)
  }

  pwritev(buffers: readonly Uint8Array[], offset: number): void | Promise<void> {
    const parts = this.#partsOf(buffers, offset)
    const only = parts.length === 1 ? parts[0] : undefined
    if (parts.length === 0 || only?.isZero === false) return this.#store(buffers, offset)
    return this.#writeParts(buffers, offset, parts)
  }

  close(): void | Promise<void> {
    return this.#disk.close()
  }

  #pwriteFrom(ram: Uint8Array, start: number, length: number, offset: number): void {
    // Most data shows at once, and a piece of a write that begins with a zero is rare enough to be looked at.
    if (length <= this.#piece && (ram[start] !== 0 || ram[start + length - 1] !== 0)) this.#disk.pwriteFrom?.(ram, start, length, offset)
    else void this.pwritev([ram.subarray(start, start + length)], offset)
  }

  /** The bytes of a write, in runs of whole pieces that are alike. */
  #partsOf(buffers: readonly Uint8Array[], offset: number): Part[] {
    const cursor = new BufferCursor(buffers)
    const total = totalLength(buffers)
    const parts: Part[] = []
    for (let at = 0; at < total;) {
      const length = Math.min(this.#piece - ((offset + at) % this.#piece), total - at)
      const isZeroes = cursor.take(length).every(isZero)
      const last = parts.at(-1)
      if (last?.isZero === isZeroes) parts[parts.length - 1] = { length: last.length + length, isZero: isZeroes }
      else parts.push({ length, isZero: isZeroes })
      at += length
    }
    return parts
  }

  #writeParts(buffers: readonly Uint8Array[], offset: number, parts: readonly Part[]): void | Promise<void> {
    const cursor = new BufferCursor(buffers)
    const steps = this.#steps(cursor, offset, parts)
    if (this.asynchronous) return this.#finish(steps)
    for (const _ of steps) { /* Each step is done when it is taken. */ }
  }

  async #finish(steps: Iterable<void | Promise<void>>): Promise<void> {
    for (const step of steps) await step
  }

  * #steps(cursor: BufferCursor, offset: number, parts: readonly Part[]): Generator<void | Promise<void>> {
    for (const { length, isZero } of parts) {
      const views = cursor.take(length)
      yield isZero ? this.writeZeroes(offset, length, this.#isUnmapping) : this.#store(views, offset)
      offset += length
    }
  }

  #store(buffers: readonly Uint8Array[], offset: number): void | Promise<void> {
    const disk = this.#disk
    const [only] = buffers
    if (only !== undefined && buffers.length === 1) return disk.pwrite(only, offset)
    if (disk.pwritev !== undefined) return disk.pwritev(buffers, offset)
    return disk.pwrite(joined(buffers), offset)
  }
}
