/**
 * mirrorDisk: copies the disk of a running guest to another backing, with what the guest writes meanwhile, and lets the guest go on there.
 */
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
  /** Bytes in a second that are copied at most, while the guest runs. Default: as many as the host can. */
  readonly rate?: number
  /** The target reads as zeroes: zeroes of the disk need not be written. Default false. */
  readonly targetIsZero?: boolean
  /** Tells the time for `rate`. Default: the host's. */
  readonly clock?: PaceClock
}

const MIRROR_RULES: Rules<MirrorOptions> = { ...OPERATION_RULES, rate: "number?", targetIsZero: "boolean?", clock: "object?" }

const SECTOR = 512
/** So little can be copied while the guest waits. */
const SWITCH_BYTES = 4 << 20

/**
 * Copies the disk of `device` to `target`, whatever is there, while the guest runs: what it writes is copied again, until little is left.
 * Then the device takes no requests, the rest is copied and flushed, and the guest goes on with `target`. A device that was paused goes on
 * too.
 *
 * When this resolves, the old disk is its owner's to close. When it rejects, the guest goes on with the old one, and `target` holds a part.
 * @throws BackingError (as a rejection) what reading the disk and writing `target` fail with; `invalid-argument` for a target of another
 * size, or without an ability that the guest may rely on; `unsupported` for zoned disks. The signal's reason.
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
      // Whoever has put another disk in, or changed this one's size, wants that.
      if (device.backing !== mirror.disk) throw new Error("mirrorDisk: the device got another disk meanwhile")
      checkTarget(mirror.disk, target)
      await device.changeBacking(target)
      if (!mirror.isReplaced) return
      // No request was taken meanwhile, but somebody has gone back to a snapshot.
      await device.changeBacking(mirror.disk, { atOnce: true })
    }
  } finally {
    device.resume()
  }
}

/** What the mirror failed with is to be told: a device that cannot go back goes on through the mirror, which does nothing else. */
async function goBack(device: MirroredDevice, source: VirtioBacking): Promise<void> {
  try {
    await device.changeBacking(source)
  } catch (error) {
    if (!(error instanceof BackingError)) throw error
  }
}

/** Refused now, and not after hours of copying. */
function checkTarget(source: VirtioBacking, target: VirtioBacking): void {
  const refuse = (message: string): BackingError => new BackingError("invalid-argument", `the target of the mirror ${message}`)
  if (source.zones !== undefined || target.zones !== undefined) throw new BackingError("unsupported", "a zoned disk cannot be mirrored")
  if (target.readOnly) throw refuse("is read-only")
  const [sectors, targetSectors] = [source, target].map(({ size }) => Math.floor(size / SECTOR))
  if (sectors !== targetSectors) throw refuse(`has ${target.size} bytes, and the disk ${source.size}: both need the same number of sectors`)
  const needed = ["flush", "discard", "writeZeroes", "secureErase", "lifetime"] as const
  const missing = needed.find((name) => source[name] !== undefined && target[name] === undefined)
  if (missing !== undefined) throw refuse(`has no ${missing}, which the guest may rely on`)
}

class Mirror {
  /** The source, as the device uses it meanwhile. */
  readonly disk: VirtioBacking
  readonly #source: VirtioBacking
  readonly #target: VirtioBacking
  readonly #dirty: DirtyMap
  readonly #operation: Operation
  readonly #pace: Pace
  readonly #buffer = new Uint8Array(STEP_BYTES)
  /** Bytes that both have: a tail that is no whole sector is out of the guest's reach. */
  readonly #size: number
  #maySkipZeroes: boolean
  /** Those by which all that is not marked has been copied. */
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

  /** Pass after pass, until what the guest has changed meanwhile is little, or does not become less. */
  async copyAlmostAll(): Promise<void> {
    for (let before = Infinity; this.#dirty.dirtyBytes > SWITCH_BYTES && this.#dirty.dirtyBytes <= before / 2;) {
      before = this.#dirty.dirtyBytes
      if (before !== this.#size) this.#operation.extend(before)
      await this.#pass(async (bytes) => await this.#pace.spend(bytes, () => this.#operation.throwIfStopped()))
      this.#maySkipZeroes = false
      if (this.#markReplaced()) before = Infinity
    }
  }

  /** The source holds something else as a whole than what was copied. */
  get isReplaced(): boolean {
    return tablesOf(this.#source) !== this.#tables
  }

  /** The guest is not running. */
  async copyRest(): Promise<void> {
    this.#markReplaced()
    this.#operation.extend(this.#dirty.dirtyBytes)
    await this.#pass(async () => undefined)
  }

  /** Whoever goes back to a snapshot of the image changes all of it, and not through the disk that is watched. */
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

  /** Its marks have been taken away before: what changes while it is read is marked anew. */
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
