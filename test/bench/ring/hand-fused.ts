/**
 * A device in one function: what the same requests cost code that does nothing else. It serves usual requests of a split ring with
 * EVENT_IDX, checks what keeps a guest in its RAM, and knows neither registers nor resets, errors, other features or other requests. The
 * ring's targets are times of this.
 */
import type { VirtioBacking } from "../../../src/backing/backing.ts"
import { LAYOUT, QUEUE_SIZE } from "../guest-drivers.ts"

const { DESC, AVAIL, USED } = LAYOUT
const [NEXT, WRITE] = [1, 2] as const
const LAST = QUEUE_SIZE - 1

export class HandFused {
  readonly #ram: Uint8Array
  readonly #data: DataView
  readonly #backing: VirtioBacking
  #lastAvail = 0
  /** Interrupts so far. */
  interrupts = 0

  constructor(ram: Uint8Array, backing: VirtioBacking) {
    this.#ram = ram
    this.#data = new DataView(ram.buffer, ram.byteOffset, ram.length)
    this.#backing = backing
  }

  /** Serves what is available. @throws Error on a request that is not usual: the bench makes none */
  serve(): void {
    const ram = this.#ram
    const data = this.#data
    const backing = this.#backing
    const limit = ram.length
    const sectors = backing.size / 512
    const avail = data.getUint16(AVAIL + 2, true)
    const old = this.#lastAvail
    let at = old
    for (; at !== avail; at = (at + 1) & 0xffff) {
      const head = data.getUint16(AVAIL + 4 + 2 * (at & LAST), true)
      const first = DESC + 16 * (head & LAST)
      const second = DESC + 16 * (data.getUint16(first + 14, true) & LAST)
      const third = DESC + 16 * (data.getUint16(second + 14, true) & LAST)
      if (data.getUint32(first + 4, true) !== 0 || data.getUint32(second + 4, true) !== 0 || data.getUint32(third + 4, true) !== 0) break
      const header = data.getUint32(first, true)
      const start = data.getUint32(second, true)
      const length = data.getUint32(second + 8, true)
      const status = data.getUint32(third, true)
      if (data.getUint32(first + 8, true) !== 16 || data.getUint32(third + 8, true) !== 1) break
      if (header > limit - 16 || start > limit || length > limit - start || status >= limit) break
      const isRead = data.getUint32(header, true) === 0
      const sector = data.getUint32(header + 8, true)
      if (data.getUint32(header + 12, true) !== 0 || (length & 511) !== 0 || sector > sectors || length / 512 > sectors - sector) break
      if (data.getUint16(first + 12, true) !== NEXT || data.getUint16(third + 12, true) !== WRITE) break
      if (data.getUint16(second + 12, true) !== (isRead ? NEXT | WRITE : NEXT)) break
      if (backing.preadInto === undefined || backing.pwriteFrom === undefined) {
        const view = new Uint8Array(ram.buffer, ram.byteOffset + start, length)
        if (isRead) backing.pread(view, sector * 512)
        else backing.pwrite(view, sector * 512)
      } else if (isRead) backing.preadInto(ram, start, length, sector * 512)
      else backing.pwriteFrom(ram, start, length, sector * 512)
      data.setUint8(status, 0)
      const used = USED + 4 + 8 * (at & LAST)
      data.setUint32(used, head, true)
      data.setUint32(used + 4, isRead ? length + 1 : 1, true)
    }
    if (at !== avail) throw new Error("a request is not usual")
    data.setUint16(USED + 2, at, true)
    data.setUint16(USED + 4 + 8 * QUEUE_SIZE, at, true)
    this.#lastAvail = at
    const event = data.getUint16(AVAIL + 4 + 2 * QUEUE_SIZE, true)
    if (((at - event - 1) & 0xffff) < ((at - old) & 0xffff)) this.interrupts++
  }
}
