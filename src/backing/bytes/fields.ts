/** Fields of file formats and messages: views, big-endian 64-bit numbers, UTF-8, and padding. */

/** The view over exactly these bytes. */
export function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
}

/** A u64 as a number: exact below 2^53, above that rounded but still at least 2^53, so one comparison refuses it. */
export function getU64(view: DataView, offset: number): number {
  return view.getUint32(offset) * 2 ** 32 + view.getUint32(offset + 4)
}

/** Stores a safe integer >= 0 as a u64. */
export function setU64(view: DataView, offset: number, value: number): void {
  view.setUint32(offset, Math.floor(value / 2 ** 32))
  view.setUint32(offset + 4, value % 2 ** 32)
}

const decoder = new TextDecoder("utf-8")
const encoder = new TextEncoder()

/** Bytes as text; what is not UTF-8 becomes U+FFFD. */
export function decodeText(bytes: Uint8Array): string {
  return decoder.decode(bytes)
}

/** Text as UTF-8. */
export function encodeText(text: string): Uint8Array {
  return encoder.encode(text)
}

/** `value` rounded up to a multiple of `unit`. The result must be a safe integer. */
export function roundUp(value: number, unit: number): number {
  return Math.ceil(value / unit) * unit
}
