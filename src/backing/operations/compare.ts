/** compareDisks: finds the first difference of two disks. */
import { checkOptions, type Rules } from "../../options.ts"
import { checkBacking, type VirtioBacking } from "../backing.ts"
import { isEqual, isZero } from "../bytes/buffers.ts"
import { Operation, OPERATION_RULES, type OperationOptions } from "./operation.ts"
import { type Run, runAt } from "./runs.ts"

/** Options of `compareDisks`. */
export interface CompareOptions extends OperationOptions {
  /** Whether another size or another allocation counts as a difference. Default false: the smaller disk counts as continued by zeroes. */
  readonly strict?: boolean
}

const COMPARE_RULES: Rules<CompareOptions> = { ...OPERATION_RULES, strict: "boolean?" }

/** The result of `compareDisks`. */
export interface Comparison {
  readonly same: boolean
  /** The kind of the first difference. Left out if they are the same. */
  readonly difference?: "content" | "size" | "allocation"
  /** Byte of the disks where they first differ in content or allocation. */
  readonly offset?: number
  /** Whether the sizes differ. */
  readonly sizesDiffer: boolean
}

/** Bytes that are read from each disk at a time, so that both stay in the processor's cache. */
const PIECE = 1 << 18

/**
 * Compares the content of two disks, and changes neither.
 * @throws BackingError (as a rejection) errors of reading
 * @throws the signal's reason when it is stopped
 */
export async function compareDisks(one: VirtioBacking, other: VirtioBacking, options: CompareOptions = {}): Promise<Comparison> {
  checkOptions("compareDisks", options, COMPARE_RULES)
  checkBacking("compareDisks", one)
  checkBacking("compareDisks", other)
  const { strict = false } = options
  const [shorter, longer] = one.size <= other.size ? [one, other] : [other, one]
  const sizesDiffer = shorter.size !== longer.size
  if (strict && sizesDiffer) return { same: false, difference: "size", sizesDiffer }
  const operation = new Operation(longer.size, options)
  const comparer = new Comparer([shorter, longer], operation, strict)
  const found = await comparer.compare(shorter.size) ?? await comparer.findData(shorter.size, longer.size)
  return found === undefined ? { same: true, sizesDiffer } : { same: false, ...found, sizesDiffer }
}

interface Difference {
  readonly difference: "content" | "allocation"
  readonly offset: number
}

class Comparer {
  readonly #disks: readonly [VirtioBacking, VirtioBacking]
  readonly #operation: Operation
  readonly #isStrict: boolean
  readonly #buffers = [new Uint8Array(PIECE), new Uint8Array(PIECE)] as const

  constructor(disks: readonly [VirtioBacking, VirtioBacking], operation: Operation, isStrict: boolean) {
    this.#disks = disks
    this.#operation = operation
    this.#isStrict = isStrict
  }

  /** The first difference of both disks below `end`. */
  async compare(end: number): Promise<Difference | undefined> {
    const [one, other] = this.#disks
    let runs: readonly [Run, Run] | undefined
    for (let offset = 0; offset < end;) {
      await this.#operation.turn()
      const before: readonly (Run | undefined)[] = runs ?? []
      runs = [await this.#runFrom(one, before[0], offset, end), await this.#runFrom(other, before[1], offset, end)]
      const length = Math.min(...runs.map((run) => run.offset + run.length - offset))
      if (this.#isStrict && runs[0].isAllocated !== runs[1].isAllocated) return { difference: "allocation", offset }
      const both = runs[0].isZero && runs[1].isZero
      const piece = both ? length : Math.min(length, PIECE - (offset % PIECE))
      const at = both ? -1 : await this.#compareAt(offset, piece, runs)
      if (at >= 0) return { difference: "content", offset: at }
      offset += piece
      this.#operation.advance(piece)
    }
    return undefined
  }

  /** The first byte of the longer disk, from `start` on, that is not zero. */
  async findData(start: number, end: number): Promise<Difference | undefined> {
    const [, longer] = this.#disks
    let run: Run | undefined
    for (let offset = start; offset < end;) {
      await this.#operation.turn()
      run = await this.#runFrom(longer, run, offset, end)
      const length = run.offset + run.length - offset
      const piece = run.isZero ? length : Math.min(length, PIECE)
      if (!run.isZero) {
        const [buffer] = this.#buffers
        const content = buffer.subarray(0, piece)
        await longer.pread(content, offset)
        if (!isZero(content)) return { difference: "content", offset: offset + content.findIndex((byte) => byte !== 0) }
      }
      offset += piece
      this.#operation.advance(piece)
    }
    return undefined
  }

  /** The run of `disk` at `offset`: the rest of `before`, if it includes `offset`. */
  async #runFrom(disk: VirtioBacking, before: Run | undefined, offset: number, end: number): Promise<Run> {
    if (before !== undefined && offset < before.offset + before.length) return before
    return await runAt(disk, offset, end - offset)
  }

  /** The first byte of a piece that differs, or -1. */
  async #compareAt(offset: number, length: number, runs: readonly [Run, Run]): Promise<number> {
    const contents = this.#buffers.map((buffer) => buffer.subarray(0, length))
    for (const [index, content] of contents.entries()) {
      if (runs[index]?.isZero === false) await this.#disks[index]?.pread(content, offset)
    }
    const [one, other] = contents
    if (one === undefined || other === undefined) throw new Error("there are two disks")
    if (runs[0].isZero || runs[1].isZero) {
      const content = runs[0].isZero ? other : one
      return isZero(content) ? -1 : offset + content.findIndex((byte) => byte !== 0)
    }
    return isEqual(one, other) ? -1 : offset + one.findIndex((byte, at) => byte !== other[at])
  }
}
