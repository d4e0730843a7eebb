/** growingMemory: RAM that can grow, which detaches the old buffer. */

/** Only the DOM's library declares the type. */
declare const WebAssembly: {
  readonly Memory: new (limits: { initial: number; maximum: number; shared: boolean }) => GrowingMemory
}

/** A WebAssembly.Memory. `grow` takes pages of 64 KiB. */
export interface GrowingMemory {
  readonly buffer: ArrayBufferLike
  grow(pages: number): number
}

/** `bytes` of RAM, which may grow by `pages` pages. `shared`: in a SharedArrayBuffer, which growth replaces by a longer one. */
export function growingMemory(bytes: number, { pages = 64, shared = false } = {}): GrowingMemory {
  const initial = bytes >> 16
  return new WebAssembly.Memory({ initial, maximum: initial + pages, shared })
}
