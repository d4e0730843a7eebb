/** One run of the fuzzer: the image that is open, what it must hold, what was done, and which errors may come. */
import { BackingError, type BackingErrorCode, type VirtioBacking } from "../../../src/backing/backing.ts"
import { checkQcow2 } from "../../../src/backing/qcow2/check/check.ts"
import { repairQcow2 } from "../../../src/backing/qcow2/check/repair.ts"
import type { Qcow2Image } from "../../../src/backing/qcow2/image.ts"
import { type DetectZeroes, detectZeroes } from "../../../src/backing/zeroes/detect-zeroes.ts"
import type { FailingFile } from "../../support/failing-file.ts"
import { FlatModel } from "../../support/flat-model.ts"
import type { Rng } from "../../support/rng.ts"
import type { Unflushed } from "./late-failures.ts"
import { Expected, expectBytes, expectContent } from "./expected.ts"
import { contentOf, type Opened, type Opening, World } from "./world.ts"

/** A view of a snapshot that somebody keeps open. */
interface OpenView {
  readonly view: Qcow2Image
  readonly content: FlatModel
}

const ANY_CALL = ["write", "read", "sync", "truncate"] as const

/** Bytes behind the end of an image: the longest that are kept are longer. */
const LONGEST_TRAILER = 3000

export class Run {
  readonly rng: Rng
  readonly world = new World()
  readonly history: string[] = []
  /** Calls of the files may fail. */
  readonly hasFaults: boolean
  /** Errors that were injected, and came out. */
  faults = 0
  expected = new Expected(new FlatModel(0))
  /** Names of the layers from the top down. */
  chain: string[] = []
  /** By id. */
  readonly views = new Map<string, OpenView>()
  /** Passphrases that open the top, beside the one of all shapes. */
  readonly passphrases = new Set<string>()
  /** Long work is under way, which has planned a fault, or not. */
  isBusy = false
  /** The call that fails in the next step: drawn where that is undefined. */
  failingCall: number | undefined
  /** What has been changed since a flush: kept while a late file may fail. */
  unflushed: Unflushed | undefined
  #opened: Opened | undefined
  #guest: VirtioBacking | undefined
  #trailer: Uint8Array | undefined
  /** An error at the end has left clusters that nobody uses. */
  #mayLeak = false

  readonly #guestOf: (disk: VirtioBacking) => VirtioBacking

  /** `guest`: what the guest gets in place of the disk. */
  constructor(
    rng: Rng,
    { hasFaults, guest = (disk) => disk }: {
      readonly hasFaults: boolean
      readonly guest?: ((disk: VirtioBacking) => VirtioBacking) | undefined
    },
  ) {
    this.rng = rng
    this.hasFaults = hasFaults
    this.#guestOf = guest
  }

  get opened(): Opened {
    if (this.#opened === undefined) throw new Error("the image is not open")
    return this.#opened
  }

  get image(): Qcow2Image {
    return this.opened.image
  }

  /** The disk as a guest sees it. */
  get guest(): VirtioBacking {
    if (this.#guest === undefined) throw new Error("the image is not open")
    return this.#guest
  }

  note(what: string): void {
    this.history.push(what)
  }

  /** Appends bytes to the top's file, as some programs do. */
  addTrailer(): void {
    const layer = this.world.layer(this.world.top)
    if (layer.data !== undefined) return
    const file = layer.file.clone()
    this.#trailer = this.rng.bytes(this.rng.between(1, LONGEST_TRAILER))
    file.write(this.#trailer, file.size())
    layer.file = file
  }

  /** Opens the top in some way. `how.now`: so that every file answers at once; `how.late`: so that those of the top answer later. */
  async open(how: { readonly now?: boolean; readonly late?: boolean; readonly writable?: readonly string[] } = {}): Promise<void> {
    const { rng, world } = this
    const { top } = world
    this.chain = world.chainOf(top)
    const version = new DataView(world.layer(top).file.toBytes().buffer).getUint32(4)
    const opening: Opening = {
      writable: [top, ...(how.writable ?? [])], cacheSize: rng.pick([0, 8192, 65_536, 1 << 20]),
      discardNoUnref: version > 2 && rng.chance(0.2), overlapCheck: rng.pick(["cached", "all"] as const),
    }
    const isLate = how.now !== true && (how.late === true || rng.chance(0.3))
    this.#opened = isLate ? await world.openLate(top, opening, rng) : world.openNow(top, opening)
    const mode: DetectZeroes = rng.chance(0.8) ? "off" : rng.pick(["on", "unmap"] as const)
    this.#guest = this.#guestOf(detectZeroes(this.opened.disk, mode))
    this.note(`open ${this.chain.join(" over ")}${isLate ? ", late" : ""}, version ${version}, zeroes ${mode}`)
  }

  /** Puts another layer, which is open, in the place of the top: the guest goes on there. */
  async switchTo(name: string, opened: Opened): Promise<void> {
    await this.close()
    this.world.top = name
    this.chain = [name]
    this.#opened = opened
    this.#guest = opened.disk
    this.#trailer = undefined
    this.passphrases.clear()
    this.expected = new Expected(this.expected.disk)
  }

  /** Closes the image and looks at its file. */
  async close(): Promise<void> {
    await this.#closeViews()
    await this.opened.disk.close()
    this.#opened = undefined
    this.checkFile()
  }

  /** Closes the image while a call may fail: all that has been flushed is there all the same. */
  async closeBadly(): Promise<void> {
    await this.guest.flush?.()
    this.arm({ mayTear: false })
    await this.closeFailed()
  }

  /** Closes the image after calls that failed, or while one may. */
  async closeFailed(): Promise<void> {
    await this.#closeViews()
    try {
      await this.opened.disk.close()
    } catch (error) {
      this.judge(error)
      this.#mayLeak = true
      this.note("  and so the image was not closed")
    }
    this.disarm()
    this.#opened = undefined
    this.checkFile()
  }

  async #closeViews(): Promise<void> {
    for (const { view } of this.views.values()) view.close()
    this.views.clear()
  }

  /** Bitmaps are stored by `close` only: after one that failed there may be others, or those that are there cannot be relied on. */
  async dropBitmaps(): Promise<void> {
    if (!this.#mayLeak) return
    const { image, expected } = this
    if (image.header.version < 3) return expected.bitmaps.clear()
    await this.opened.perform("reads", () => expected.checkStoredBitmaps(image))
    expected.bitmaps.clear()
    await this.opened.perform("changes", () => {
      for (const { name } of image.bitmaps.list()) image.bitmaps.remove(name)
    })
  }

  /** Has no corruption, and no leak unless an error has left some, which a repair then mends. */
  checkFile(): void {
    const layer = this.world.layer(this.world.top)
    const found = checkQcow2(layer.file.clone({ readOnly: true }))
    const wrong = found.corruptions > 0 || (found.leaks > 0 && !this.#mayLeak)
    if (wrong) throw new Error(`the check finds: ${found.findings.slice(0, 4).map(({ message }) => message).join("; ")}`)
    if (found.leaks > 0) {
      const file = layer.file.clone()
      repairQcow2(file, this.rng.pick(["leaks", "all"] as const))
      layer.file = file.clone()
      const left = checkQcow2(file.clone()).findings
      if (left.length > 0) throw new Error(`after a repair the check finds: ${left[0]?.message}`)
    }
    if (this.#trailer === undefined || this.#mayLeak) return
    const bytes = layer.file.toBytes()
    const end = bytes.subarray(Math.max(0, bytes.length - this.#trailer.length))
    if (Buffer.compare(end, this.#trailer) !== 0) throw new Error("what was behind the end of the image is not there any more")
  }

  /** The image is as it must be. */
  async check(when: string): Promise<void> {
    const { expected, image, opened } = this
    try {
      expectBytes(await contentOf(this.guest), expected.disk, "the disk")
      await opened.perform("reads", () => expected.checkSnapshots(image))
      await opened.perform("reads", () => expected.checkBitmaps(image))
      for (const [id, { view, content }] of this.views) {
        await opened.perform("reads", () => expectContent(view, content, `the open view of snapshot ${id}`))
      }
    } catch (error) {
      throw new Error(`${when}: ${error instanceof Error ? error.message : String(error)}`, { cause: error })
    }
  }

  /** Lets some call of some file fail from now on. `mayTear`: a write may be done in part. */
  arm({ mayTear = true, files }: { readonly mayTear?: boolean; readonly files?: readonly FailingFile[] } = {}): void {
    const { rng } = this
    if (!this.hasFaults || (this.failingCall === undefined && !rng.chance(0.4))) return
    // A late file that could not be written once is not written any more: `failLate` is where that happens.
    const isLate = files === undefined && this.opened.isLate
    const { written, read } = this.#opened ?? { written: [], read: [] }
    const file = rng.pick(files ?? (rng.chance(0.8) || read.length === 0 ? written : read))
    const calls = isLate
      ? (["read"] as const)
      : this.failingCall !== undefined || rng.chance(0.4) ? ANY_CALL : rng.pick([["write", "truncate"], ["sync"], ["read"]] as const)
    file.calls = 0
    file.plan = {
      at: this.failingCall ?? rng.between(1, rng.pick([1, 3, 12, 40])), code: rng.pick(["io", "no-space"] as const), calls,
      duration: isLate ? "once" : rng.pick(["once", "for-good"] as const), partial: mayTear ? rng.pick([0, 0.5, 1]) : 0,
    }
  }

  /** Lets some call that changes one of the late files fail from now on. */
  armLate(): void {
    const { rng } = this
    const file = rng.pick(this.opened.written)
    file.calls = 0
    file.plan = {
      at: rng.between(1, rng.pick([3, 12, 40])), code: rng.pick(["io", "no-space"] as const),
      calls: rng.pick([["write", "truncate"], ["sync"], ["write", "truncate", "sync"]] as const),
      duration: rng.pick(["once", "for-good"] as const), partial: rng.pick([0, 0.5, 1]),
    }
  }

  /** Nothing fails from now on. */
  disarm(files: readonly FailingFile[] = []): void {
    for (const file of [...files, ...(this.#opened?.written ?? []), ...(this.#opened?.read ?? [])]) file.plan = undefined
  }

  /** `error`, when it is one that may come. @throws it, when it is not */
  judge(error: unknown, allowed: readonly BackingErrorCode[] = []): BackingError {
    if (!(error instanceof BackingError)) throw error
    const isInjected = this.hasFaults && /injected/.test(error.message)
    if (!isInjected && !allowed.includes(error.code)) throw error
    if (isInjected) this.faults++
    this.note(`  ${error.code}: ${error.message.slice(0, 100)}`)
    return error
  }
}
