/** Reading and building the bytes of NBD messages: magic numbers, strings with a length, and a bounded reader. */
import { joined } from "../bytes/buffers.ts"
import { decodeText, encodeText, getU64, setU64, viewOf } from "../bytes/fields.ts"
import { type Magic, NBD_LIMIT, NbdProtocolError } from "./protocol.ts"

export function setMagic(view: DataView, offset: number, magic: Magic): void {
  view.setUint32(offset, magic[0])
  view.setUint32(offset + 4, magic[1])
}

export function isMagic(view: DataView, offset: number, magic: Magic): boolean {
  return view.getUint32(offset) === magic[0] && view.getUint32(offset + 4) === magic[1]
}

/** Big-endian integers, one after the other: `u16(1, 2)` is four bytes. */
export function u16(...values: readonly number[]): Uint8Array {
  const bytes = new Uint8Array(values.length * 2)
  const view = viewOf(bytes)
  values.forEach((value, index) => view.setUint16(index * 2, value))
  return bytes
}

export function u32(...values: readonly number[]): Uint8Array {
  const bytes = new Uint8Array(values.length * 4)
  const view = viewOf(bytes)
  values.forEach((value, index) => view.setUint32(index * 4, value))
  return bytes
}

export function u64(value: number): Uint8Array {
  const bytes = new Uint8Array(8)
  setU64(viewOf(bytes), 0, value)
  return bytes
}

/** Text with its length in bytes before it, as u32. */
export function lengthAndText(text: string): Uint8Array {
  const bytes = encodeText(text)
  return joined([u32(bytes.length), bytes])
}

/** Takes fields from a message, front to back. Every method throws NbdProtocolError where the message is too short. */
export class WordReader {
  readonly #bytes: Uint8Array
  readonly #view: DataView
  readonly #what: string
  #at = 0

  /** @param what names the message in errors: "NBD_OPT_GO" */
  constructor(bytes: Uint8Array, what: string) {
    this.#bytes = bytes
    this.#view = viewOf(bytes)
    this.#what = what
  }

  /** Bytes that are left. */
  get left(): number {
    return this.#bytes.length - this.#at
  }

  u16(): number {
    return this.#view.getUint16(this.#take(2))
  }

  u32(): number {
    return this.#view.getUint32(this.#take(4))
  }

  /** As `getU64`: at least 2^53 where the field is. */
  u64(): number {
    return getU64(this.#view, this.#take(8))
  }

  /** A string of `length` bytes, at most the 4096 that the protocol allows. */
  text(length: number): string {
    if (length > NBD_LIMIT.string) {
      throw new NbdProtocolError(`${this.#what}: a string of ${length} bytes; the limit is ${NBD_LIMIT.string}`)
    }
    const at = this.#take(length)
    return decodeText(this.#bytes.subarray(at, at + length))
  }

  /** A string behind its length. */
  lengthAndText(): string {
    return this.text(this.u32())
  }

  /** @throws NbdProtocolError when bytes are left */
  end(): void {
    if (this.left > 0) throw new NbdProtocolError(`${this.#what}: ${this.left} bytes too many`)
  }

  #take(length: number): number {
    if (length > this.left) throw new NbdProtocolError(`${this.#what}: it ends after ${this.#bytes.length} bytes, in the middle of a field`)
    const at = this.#at
    this.#at += length
    return at
  }
}
