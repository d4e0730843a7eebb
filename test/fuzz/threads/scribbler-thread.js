/**
 * A hostile guest's second processor: it writes words of descriptors, rings, headers and ranges over and over, as fast as it can, while the
 * device reads them. Plain JavaScript: a Worker loads it as it is.
 */
import { parentPort, workerData } from "node:worker_threads"

const { ram, base, control } = workerData
const words = new Uint32Array(ram)
const halves = new Uint16Array(ram)
/** Word 0: go on. Word 1: it is at work. Word 2: words written. */
const state = new Int32Array(control)

parentPort.on("message", ({ seed, targets, split }) => {
  let bits = seed | 1
  const random = (limit) => {
    bits ^= bits << 13
    bits ^= bits >>> 17
    bits ^= bits << 5
    return (bits >>> 0) % limit
  }
  Atomics.store(state, 1, 1)
  Atomics.notify(state, 1)
  let count = 0
  while (Atomics.load(state, 0) === 1) {
    for (let left = 64; left > 0; left--) {
      const { at, width, values } = targets[random(targets.length)]
      const value = values[random(values.length)]
      if (width === 4) words[(base + at) >> 2] = value
      else halves[(base + at) >> 1] = value
    }
    count += 64
    // Chains appear, and are taken back.
    if (split !== undefined) {
      const usedIdx = Atomics.load(halves, (base + split.used + 2) >> 1)
      Atomics.store(halves, (base + split.avail + 2) >> 1, (usedIdx + random(split.ahead + 1)) & 0xffff)
    }
  }
  Atomics.store(state, 2, count)
  Atomics.store(state, 1, 0)
  Atomics.notify(state, 1)
})
