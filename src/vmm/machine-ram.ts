/** Makes the RAM of a `Machine`, or checks the RAM that the embedder passes. */
import { checkRam, LinearMemory } from "../virtio/guest-memory.ts"
import { MAX_RAM_SIZE } from "./memory-map.ts"

/** Sizes are in bytes. `MachineOptions` says what they mean. */
export interface RamOptions {
  readonly ramSize?: number
  readonly memory?: ArrayBufferLike | Uint8Array | { readonly buffer: ArrayBufferLike; grow(pages: number): number }
  readonly written?: (address: number, length: number) => void
}

/** @throws TypeError for RAM of another kind, RangeError for a wrong size */
export function ramOf(options: RamOptions): LinearMemory {
  const { ramSize, memory } = options
  if (memory !== undefined) checkRam("Machine", "memory", memory)
  const available = memory === undefined
    ? MAX_RAM_SIZE
    : "buffer" in memory && !ArrayBuffer.isView(memory) ? memory.buffer.byteLength : memory.byteLength
  const size = ramSize ?? Math.min(available, MAX_RAM_SIZE)
  if (ramSize === undefined && memory === undefined) throw new RangeError("a machine needs ramSize, memory or both")
  if (!Number.isInteger(size) || size <= 0 || size > MAX_RAM_SIZE) {
    throw new RangeError(`ramSize ${size}: RAM has 1 to ${MAX_RAM_SIZE} bytes (3 GiB); devices begin there`)
  }
  if (size > available) throw new RangeError(`ramSize ${size} is more than the ${available} bytes of the memory given`)
  return new LinearMemory(memory ?? new ArrayBuffer(size), {
    length: ramSize ?? MAX_RAM_SIZE, ...(options.written === undefined ? {} : { written: options.written })
  })
}
