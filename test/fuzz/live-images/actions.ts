/**
 * Single steps, each a generator that yields what its calls return: driven at once where the disk answers at once, awaited elsewhere. A
 * step that fails leaves the image as it was, or each byte as it was or as it was to be.
 */
import type { BackingError, BackingErrorCode } from "../../../src/backing/backing.ts"
import { split, writeCompressed } from "../../support/random-operations.ts"
import type { Run } from "./run.ts"

export type Action<T = void> = Generator<unknown, T, unknown>

/** Does all of a step on a disk that answers at once. */
export function doNow(action: Action): void {
  for (let step = action.next(); step.done !== true;) {
    if (step.value instanceof Promise) throw new Error("a disk that answers at once has returned a promise")
    step = action.next(step.value)
  }
}

export async function doLater(action: Action): Promise<void> {
  for (let step = action.next(); step.done !== true;) {
    let value: unknown
    try {
      value = await step.value
    } catch (error) {
      step = action.throw(error)
      continue
    }
    step = action.next(value)
  }
}

/** Makes a call that may fail. Returns the error. */
export function* attempt(run: Run, call: () => unknown, allowed: readonly BackingErrorCode[] = []): Action<BackingError | undefined> {
  if (!run.isBusy) run.arm()
  try {
    yield call()
    return undefined
  } catch (error) {
    run.disarm()
    return run.judge(error, allowed)
  } finally {
    if (!run.isBusy) run.disarm()
  }
}

/** A range of the disk, mostly short. */
export function drawRange(run: Run): { readonly offset: number; readonly length: number } {
  const { rng, expected: { disk: { size } }, image: { geometry: { clusterSize } } } = run
  const unit = rng.pick([1, 512, clusterSize])
  const offset = Math.floor(rng.below(size) / unit) * unit
  const wanted = Math.floor(rng.below(rng.pick([2, 4, 30]) * Math.max(512, clusterSize)) / unit) * unit
  const length = rng.chance(0.08) ? size - offset : Math.max(1, wanted)
  return { offset, length: Math.min(length, size - offset) }
}

/** What the guest does. */
export function guestAction(run: Run): Action {
  const roll = run.rng.below(100)
  if (roll < 45) return write(run)
  if (roll < 62) return read(run)
  if (roll < 76) return zero(run)
  return roll < 92 ? discard(run) : flush(run)
}

export function* read(run: Run): Action {
  const { offset, length } = drawRange(run)
  const data = new Uint8Array(length)
  run.note(`read ${offset} ${length}`)
  if ((yield* attempt(run, () => run.guest.pread(data, offset))) !== undefined) return
  const difference = run.expected.disk.firstDifference(data, offset)
  if (difference >= 0) throw new Error(`a read of ${length} bytes at ${offset}: byte ${difference} is ${data[difference - offset]}`)
}

function* write(run: Run): Action {
  const { rng, guest, image, opened } = run
  const { offset, length } = drawRange(run)
  const kind = rng.pick(["plain", "plain", "plain", "vector", "zeroes", "compressed"] as const)
  const data = kind === "zeroes" ? new Uint8Array(length) : rng.bytes(length)
  if (kind === "compressed") for (let at = 61; at < length; at++) data[at] = data[at - 61] ?? 0
  run.note(`write ${offset} ${length}, ${kind}`)
  run.unflushed?.change(data, offset)
  const error = yield* attempt(run, () => {
    if (kind === "vector" && guest.pwritev !== undefined) return guest.pwritev(split(data, 3), offset)
    // What QEMU has no encrypted images with.
    if (kind !== "compressed" || image.header.cryptMethod !== 0) return guest.pwrite(data, offset)
    return opened.perform("changes", () => writeCompressed(image, { data, offset }, opened.isLate ? 1 : Infinity))
  })
  if (error === undefined) run.expected.write(data, offset)
  else yield* settle(run, offset, data)
}

function* zero(run: Run): Action {
  const { offset, length } = drawRange(run)
  const mayUnmap = run.rng.chance(0.5)
  run.note(`zero ${offset} ${length}${mayUnmap ? ", may unmap" : ""}`)
  run.unflushed?.change(new Uint8Array(length), offset)
  const error = yield* attempt(run, () => run.guest.writeZeroes?.(offset, length, mayUnmap))
  if (error === undefined) run.expected.write(new Uint8Array(length), offset)
  else yield* settle(run, offset, new Uint8Array(length))
}

function* discard(run: Run): Action {
  const { expected, image } = run
  const { offset, length } = drawRange(run)
  const { clusterSize } = image.geometry
  // Version 2 cannot hide what is behind the image, which may go while this is under way.
  const mayShow = image.header.version < 3 && image.backing !== undefined
  run.note(`discard ${offset} ${length}`)
  run.unflushed?.change(new Uint8Array(length), offset)
  const error = yield* attempt(run, () => run.guest.discard?.(offset, length))
  expected.mark(offset, length)
  const first = Math.ceil(offset / clusterSize) * clusterSize
  const end = offset + length === expected.disk.size ? expected.disk.size : Math.floor((offset + length) / clusterSize) * clusterSize
  if (end <= first) return
  if (error !== undefined || mayShow) yield* settle(run, first, new Uint8Array(end - first))
  else expected.disk.zero(first, end - first)
}

export function* flush(run: Run): Action {
  run.note("flush")
  if ((yield* attempt(run, () => run.guest.flush?.())) === undefined) run.unflushed?.flushed(run.expected.disk)
}

/** After a change that has failed: each byte is what it was, or one of `next`. */
export function* settle(run: Run, offset: number, next: Uint8Array): Action {
  const found = new Uint8Array(next.length)
  yield run.guest.pread(found, offset)
  const before = run.expected.disk.read(offset, next.length)
  const wrong = found.findIndex((byte, at) => byte !== before[at] && byte !== next[at])
  if (wrong >= 0) throw new Error(`byte ${offset + wrong} is ${found[wrong]}: neither ${before[wrong]} nor ${next[wrong]}`)
  run.expected.write(found, offset)
}
