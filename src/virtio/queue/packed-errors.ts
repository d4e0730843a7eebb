/** Errors that drivers of packed rings make, built out of line: their templates would make the walk too large for V8 to optimise well. */
import { hex, VirtqueueError } from "./virtqueue-error.ts"

export function notAvailable(start: number, slot: number): VirtqueueError {
  return new VirtqueueError(`the chain in slot ${start} runs into slot ${slot}, which is not available`)
}

export function readableBehindWritable(start: number): VirtqueueError {
  return new VirtqueueError(`device-readable descriptor behind a writable one, chain in slot ${start}`)
}

export function tooManyBytes(start: number): VirtqueueError {
  return new VirtqueueError(`chain in slot ${start} describes more than 2^32 bytes`)
}

export function tooLong(start: number, room: number): VirtqueueError {
  return new VirtqueueError(`the chain in slot ${start} does not end within the ${room} descriptors that are not in flight`)
}

export function ringFull(size: number): VirtqueueError {
  return new VirtqueueError(`more than ${size} descriptors in flight: the driver reused some that it had not got back`)
}

/** `areas`: the addresses of the ring's parts. @throws VirtqueueError when one is odd */
export function checkPackedAreas(areas: readonly number[]): void {
  for (const address of areas) {
    if (address % 2 !== 0) throw new VirtqueueError(`a part of a packed ring at the odd address ${hex(address)}`)
  }
}
