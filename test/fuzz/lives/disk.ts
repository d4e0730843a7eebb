/** The disk of the lives fuzzer: it answers at once, later, in any order and with errors, and watches who calls it when. */
import type { Rng } from "../../support/rng.ts"
import { type Call, eio, FakeDisk, type Waiting } from "../../harness/fake-disk.ts"

/** The calls that change the disk. */
const CHANGES: readonly string[] = ["write", "discard", "writeZeroes"]

export class LivesDisk extends FakeDisk {
  /** Every call is answered at once, without an error. */
  isCalm = false
  /** Counts injected errors. */
  errors = 0
  /** The device has been made read-only: nothing may change. */
  isFrozen = false
  /** The first call that came when it must not, or undefined. */
  wrong: string | undefined
  /** Whether a request of the driver's life asks for this call. */
  isWanted: (call: Call) => boolean = () => true
  readonly #rng: Rng
  /** Changes that lives before the present one have left. */
  #old: readonly Waiting[] = []

  constructor(rng: Rng, content: Uint8Array) {
    super({ content })
    this.#rng = rng
    this.waits = (call) => !this.isCalm && rng.chance(call.name === "flush" ? 0.3 : 0.7)
    this.failing = (call) => this.#enter(call)
  }

  /** Marks the changes that are in flight now, from `start` up to `end`, as those of an old life. */
  endLife(start = 0, end = this.size): void {
    const isHere = ({ call }: Waiting) => CHANGES.includes(call.name) && call.offset < end && call.offset + call.length > start
    this.#old = this.waiting.filter((waiting) => this.#old.includes(waiting) || isHere(waiting))
  }

  preadNow(buffers: readonly Uint8Array[], offset: number): boolean {
    if (!this.#isNow("read", buffers, offset)) return false
    for (const buffer of buffers) {
      buffer.set(this.cache.subarray(offset, offset + buffer.length))
      offset += buffer.length
    }
    return true
  }

  pwriteNow(buffers: readonly Uint8Array[], offset: number): boolean {
    if (!this.#isNow("write", buffers, offset)) return false
    for (const buffer of buffers) {
      this.cache.set(buffer, offset)
      offset += buffer.length
    }
    return true
  }

  /** Fails a waiting call. */
  fail(waiting: Waiting): void {
    this.errors++
    waiting.fail(eio())
  }

  #isNow(name: "read" | "write", buffers: readonly Uint8Array[], offset: number): boolean {
    if (!this.#rng.chance(0.3)) return false
    this.#check({ name, offset, length: buffers.reduce((sum, { length }) => sum + length, 0), buffers: buffers.length, mayUnmap: false })
    return true
  }

  #enter(call: Call): unknown {
    this.#check(call)
    if (this.isCalm || !this.#rng.chance(0.05)) return undefined
    this.errors++
    return eio()
  }

  /** No call may come while an old life's change to the same place is out, and none that nobody in this life has asked for. */
  #check(call: Call): void {
    if (call.name === "flush") return
    const text = `${call.name} of ${call.length} bytes at ${call.offset}`
    const hides = (waiting: Waiting) => this.waiting.includes(waiting) && this.#overlaps(waiting.call, call)
    if (this.#old.some(hides)) this.wrong ??= `${text} while an old life's change is in flight there`
    if (this.isFrozen && CHANGES.includes(call.name)) this.wrong ??= `${text}, though the device is read-only`
    if (!this.isWanted(call)) this.wrong ??= `${text}, which no request asks for`
  }

  #overlaps(one: Call, other: Call): boolean {
    return one.offset < other.offset + other.length && other.offset < one.offset + one.length
  }
}
