/** mirrorDisk: copies the disk of a running guest to another backing, including concurrent writes, and then switches the guest to it. */
import { checkCount, checkOptions, type Rules } from "../../../options.ts"
import { BackingError, checkBacking, type VirtioBacking } from "../../backing.ts"
import { tablesOf } from "../layer-steps.ts"
import { Operation, OPERATION_RULES, type OperationOptions, STEP_BYTES } from "../operation.ts"
import { Pace, type PaceClock } from "../pace.ts"
import { runAt } from "../runs.ts"
import { DirtyMap } from "./dirty-map.ts"
import { watchedDisk } from "./watched-disk.ts"

/** The device whose disk is mirrored: a `VirtioBlk`. */
export interface MirroredDevice {
  readonly backing: VirtioBacking
  changeBacking(backing: VirtioBacking, options?: { readonly atOnce?: boolean }): Promise<void>
  pause(): Promise<void>
  resume(): void
}

/** Options of `mirrorDisk`. */
export interface MirrorOptions extends OperationOptions {
  /** Maximum of bytes copied a second while the guest runs. Default: no limit. */
  readonly rate?: number
  /** The target already reads as zeroes, so zeroes of the disk are skipped. Default false. */
  readonly targetIsZero?: boolean
  /** The clock for `rate`. Default: the host's. */
  readonly clock?: PaceClock
}

const MIRROR_RULES: Rules<MirrorOptions> = { ...OPERATION_RULES, rate: "number?", targetIsZero: "boolean?", clock: "object?" }

const SECTOR = 512
/** Bytes that may be copied while the guest waits. */
const SWITCH_BYTES = 4 << 20

/**
 * Copies the disk of `device` to `target`, and overwrites all of `target`, while the guest runs. Repeats this for parts that the guest has
 * changed, until little is left. Then it pauses the device, copies and flushes the rest, switches the device to `target`, and resumes it,
 * even if it was paused before.
 *
 * After it resolves, the owner of the old disk may close it. When it rejects, the guest continues with the old disk, and `target` has a
 * part of the data.
 * @throws BackingError (as a rejection) errors of reading the disk and writing `target`; `invalid-argument` for a target of another size,
 * or without an optional method that the guest may rely on; `unsupported` for zoned disks. The signal's reason.
 * @throws TypeError for wrong arguments
 */
export async function mirrorDisk(device: MirroredDevice, target: VirtioBacking, options: MirrorOptions = {}): Promise<void> {
  checkOptions("mirrorDisk", options, MIRROR_RULES)
  checkCount("mirrorDisk", "rate", options.rate, 1)
  checkBacking("mirrorDisk", target)
  const source = device.backing
  checkTarget(source, target)
  const mirror = new Mirror(source, target, options)
  await device.changeBacking(mirror.disk)
  try {
    await mirror.copyAlmostAll()
    await switchOver(device, target, mirror)
  } catch (error) {
    if (device.backing === mirror.disk) await goBack(device, source)
    throw error
  }
}

async function switchOver(device: MirroredDevice, target: VirtioBacking, mirror: Mirror): Promise<void> {
  await device.pause()
  try {
    for (;;) {
      await mirror.copyRest()
      await target.flush?.()
      // Another caller has changed the disk of the device, and that change wins.
      if (device.backing !== mirror.disk) throw new Error("mirrorDisk: the device got another disk meanwhile")
      checkTarget(mirror.disk, target)
      await device.changeBacking(target)
      if (!mirror.isReplaced) return
      // The device took no request meanwhile, but another caller has applied a snapshot.
      await device.changeBacking(mirror.disk, { atOnce: true })
    }
  } finally {
    device.resume()
  }
}

/**
 * Ignores errors, so that the mirror's own error is reported. A device that cannot switch back continues through the watched disk, which
 * only passes calls on.
 */
async function goBack(device: MirroredDevice, source: VirtioBacking): Promise<void> {
  try {
    await device.changeBacking(source)
  } catch (error) {
    if (!(error instanceof BackingError)) throw error
  }
}

/** Refuses an unsuitable target now, and not after hours of copying. */
function checkTarget(source: VirtioBacking, target: VirtioBacking): void {
  const refuse = (message: string): BackingError => new BackingError("invalid-argument", `the target of the mirror ${message}`)
  if (source.zones !== undefined || target.zones !== undefined) throw new BackingError("unsupported", "a zoned disk cannot be mirrored")
  if (target.readOnly) throw refuse("is read-only")
  const [sectors, targetSectors] = [source, target].map(({ size }) => Math.floor(size / SECTOR))
  if (sectors !== targetSectors) throw refuse(`has ${target.size} bytes, the disk ${source.size}: both need the same number of sectors`)
  const needed = ["flush", "discard", "writeZeroes", "secureErase", "lifetime"] as const
  const missing = needed.find((name) => source[name] !== undefined && target[name] === undefined)
  if (missing !== undefined) throw refuse(`has no ${missing}, which the guest may rely on`)
}

class Mirror {
  /** The watched source, which the device uses during the mirror. */
  readonly disk: VirtioBacking
  readonly #source: VirtioBacking
  readonly #target: VirtioBacking
  readonly #dirty: DirtyMap
  readonly #operation: Operation
  readonly #pace: Pace
  readonly #buffer = new Uint8Array(STEP_BYTES)
  /** The smaller size of both: the guest cannot reach an incomplete sector at the end. */
  readonly #size: number
  #maySkipZeroes: boolean
  /** The `tablesOf` the source with which all unmarked parts were copied. */
  #tables: object | undefined

  constructor(source: VirtioBacking, target: VirtioBacking, options: MirrorOptions) {
    this.#source = source
    this.#target = target
    this.#size = Math.min(source.size, target.size)
    this.#dirty = new DirtyMap(this.#size)
    this.#dirty.mark(0, this.#size)
    this.#operation = new Operation(this.#size, options)
    this.#pace = new Pace(options.rate, options.clock)
    this.#maySkipZeroes = options.targetIsZero === true
    this.#tables = tablesOf(source)
    this.disk = watchedDisk(source, (offset, length) => this.#dirty.mark(offset, Math.min(length, this.#size - offset)))
  }

  /** Copies in passes, until little is left, or until a pass does not halve the rest. */
  async copyAlmostAll(): Promise<void> {
    for (let before = Infinity; this.#dirty.dirtyBytes > SWITCH_BYTES && this.#dirty.dirtyBytes <= before / 2;) {
      before = this.#dirty.dirtyBytes
      if (before !== this.#size) this.#operation.extend(before)
      await this.#pass(async (bytes) => await this.#pace.spend(bytes, () => this.#operation.throwIfStopped()))
      this.#maySkipZeroes = false
      if (this.#markReplaced()) before = Infinity
    }
  }

  /** The whole content of the source has been replaced since it was copied. */
  get isReplaced(): boolean {
    return tablesOf(this.#source) !== this.#tables
  }

  /** Copies the rest while the device is paused. */
  async copyRest(): Promise<void> {
    this.#markReplaced()
    this.#operation.extend(this.#dirty.dirtyBytes)
    await this.#pass(async () => undefined)
  }

  /** Marks everything if a snapshot was applied, which replaces the whole content without a call of the watched disk. */
  #markReplaced(): boolean {
    if (!this.isReplaced) return false
    this.#tables = tablesOf(this.#source)
    this.#maySkipZeroes = false
    this.#dirty.mark(0, this.#size)
    return true
  }

  async #pass(wait: (bytes: number) => Promise<void>): Promise<void> {
    for (let offset = 0; ;) {
      await this.#operation.turn()
      const run = this.#dirty.take(offset, STEP_BYTES)
      if (run === undefined) return
      try {
        await this.#copy(run.offset, run.length)
      } catch (error) {
        this.#dirty.mark(run.offset, run.length)
        throw error
      }
      offset = run.offset + run.length
      this.#operation.advance(run.length)
      await wait(run.length)
    }
  }

  /** The caller has removed the marks before, so that changes during the read are marked again. */
  async #copy(offset: number, length: number): Promise<void> {
    checkTarget(this.#source, this.#target)
    for (let done = 0; done < length;) {
      const at = offset + done
      const run = await runAt(this.#source, at, length - done)
      if (run.isZero) await this.#zero(at, run.length)
      else {
        const piece = this.#buffer.subarray(0, run.length)
        await this.#source.pread(piece, at)
        await this.#target.pwrite(piece, at)
      }
      done += run.length
    }
  }

  async #zero(offset: number, length: number): Promise<void> {
    if (this.#maySkipZeroes) return
    if (this.#target.writeZeroes !== undefined) await this.#target.writeZeroes(offset, length, true)
    else await this.#target.pwrite(this.#buffer.subarray(0, length).fill(0), offset)
  }
}
