/** Copies a match in the output of a decompressor: it repeats earlier bytes, and may overlap itself. */

/** From this length on, calling a built-in function is faster (measured). */
const LONG = 96
/** Bytes that a short match copies at once: a loop over its length would cost more, because processors mispredict its end. */
const AT_ONCE = 16

/**
 * Copies `length` bytes from `distance` bytes before `at` to `at`. Bytes after them, up to 16 bytes from `at`, become garbage. The caller
 * has checked that both ranges are inside `bytes`; `view` is a view of all of it.
 */
export function copyMatch(bytes: Uint8Array, view: DataView, at: number, distance: number, length: number): void {
  const from = at - distance
  if (length > LONG || distance < 4 || at + length + AT_ONCE > bytes.length) {
    copyAny(bytes, at, from, length)
    return
  }
  view.setInt32(at, view.getInt32(from, true), true)
  view.setInt32(at + 4, view.getInt32(from + 4, true), true)
  view.setInt32(at + 8, view.getInt32(from + 8, true), true)
  view.setInt32(at + 12, view.getInt32(from + 12, true), true)
  for (let done = AT_ONCE; done < length; done += 4) view.setInt32(at + done, view.getInt32(from + done, true), true)
}

function copyAny(bytes: Uint8Array, at: number, from: number, length: number): void {
  if (length > LONG && from + length <= at) bytes.copyWithin(at, from, from + length)
  else if (length > LONG && from + 1 === at) bytes.fill(bytes[from] ?? 0, at, at + length)
  else for (let index = 0; index < length; index++) bytes[at + index] = bytes[from + index] ?? 0
}
