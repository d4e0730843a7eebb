/** Raw deflate streams: those that zlib makes, and streams by hand for what it makes never. RFC 1951 */
import { constants, deflateRawSync, type ZlibOptions } from "node:zlib"
import { describe, expect, it } from "vitest"
import { DecompressionError } from "../../../src/backing/decompression/decompression-error.ts"
import { inflateRaw } from "../../../src/backing/decompression/inflate/inflate.ts"
import { CONTENT_KINDS, makeContent } from "./contents.ts"
import { Rng, seedFromEnvironment } from "../../support/rng.ts"

/** Bytes around an output that must stay as they are. */
const GUARD = 32

/** What `input` decompresses to with room for `room` bytes; the bytes around both are looked at. */
function inflated(input: Uint8Array, room: number): Uint8Array {
  const around = new Uint8Array(GUARD + input.length + GUARD).fill(0xff)
  around.set(input, GUARD)
  const output = new Uint8Array(GUARD + room + GUARD).fill(0xa5)
  const length = inflateRaw(around.subarray(GUARD, GUARD + input.length), output.subarray(GUARD, GUARD + room))
  expect([...output.subarray(0, GUARD), ...output.subarray(GUARD + room)].every((byte) => byte === 0xa5)).toBe(true)
  return output.slice(GUARD, GUARD + length)
}

const isEqual = (one: Uint8Array, other: Uint8Array): boolean => Buffer.compare(one, other) === 0

/** Bytes of fields `[value, bits]`, the lowest bit first; a string is a code, its first bit first. */
function bits(...fields: readonly (string | readonly [value: number, width: number])[]): Uint8Array {
  const text = fields.map((field) =>
    typeof field === "string" ? field : [...field[0].toString(2).padStart(field[1], "0")].reverse().join("").slice(0, field[1]),
  ).join("")
  return Uint8Array.from({ length: Math.ceil(text.length / 8) }, (_, at) =>
    Number.parseInt([...text.slice(at * 8, at * 8 + 8).padEnd(8, "0")].reverse().join(""), 2))
}

describe("streams that zlib made", () => {
  it("QC-CMP-05 QC-CMP-06 a stream of any content, options and size is decompressed, in whole or up to any length", () => {
    const rng = new Rng(seedFromEnvironment(20261126))
    const { Z_DEFAULT_STRATEGY, Z_FIXED, Z_HUFFMAN_ONLY, Z_RLE, Z_FILTERED } = constants
    for (let round = 0; round < 400; round++) {
      const kind = rng.pick(CONTENT_KINDS)
      const content = makeContent(kind, rng.pick([0, 1, 2, 257, 258, 259, 512, 4096, 65536, rng.below(20_000)]), rng.u32())
      const options: ZlibOptions = {
        level: rng.between(0, 9), windowBits: rng.between(9, 15), memLevel: rng.between(1, 9),
        strategy: rng.pick([Z_DEFAULT_STRATEGY, Z_DEFAULT_STRATEGY, Z_FIXED, Z_HUFFMAN_ONLY, Z_RLE, Z_FILTERED]),
      }
      const stream = deflateRawSync(content, options)
      const what = `${content.length} bytes of ${kind}, ${JSON.stringify(options)}`
      expect(isEqual(inflated(stream, content.length), content), what).toBe(true)
      expect(isEqual(inflated(Buffer.concat([stream, rng.bytes(40)]), content.length + 50), content), what).toBe(true)
      const room = rng.below(content.length + 1)
      expect(isEqual(inflated(stream, room), content.subarray(0, room)), what).toBe(true)
    }
  })

  it("QC-CMP-06 a stream may lack its last block once the output is full; one that is cut off before that is refused", () => {
    const content = makeContent("text", 10_000, 5)
    const open = deflateRawSync(content, { finishFlush: constants.Z_SYNC_FLUSH })
    expect(isEqual(inflated(open, content.length), content)).toBe(true)
    expect(() => inflated(open, content.length + 1)).toThrow("ends inside")
    const stream = deflateRawSync(content)
    for (const cut of [0, 1, 2, 10, 30, 100, Math.floor(stream.length / 2), stream.length - 8]) {
      expect(() => inflated(stream.subarray(0, cut), content.length)).toThrow(DecompressionError)
    }
    expect(inflated(new Uint8Array(0), 0)).toHaveLength(0)
  })
})

describe("blocks by hand", () => {
  const FIXED: readonly [number, number] = [3, 3]
  const END = "0000000"
  /** The code of a literal below 144, and of a distance, in the fixed code. */
  const literal = (value: number): string => (0x30 + value).toString(2).padStart(8, "0")
  const distance = (code: number): string => code.toString(2).padStart(5, "0")

  it("literals and matches in the fixed code are decoded, and a match may overlap its own beginning", () => {
    // Length 258 is code 285, in the fixed code 11000101; length 3 is code 257.
    expect([...inflated(bits(FIXED, literal(65), literal(66), "0000001", distance(1), END), 99)]).toEqual([65, 66, 65, 66, 65])
    expect([...inflated(bits(FIXED, literal(7), "11000101", distance(0), END), 999)]).toEqual(new Array(259).fill(7))
    expect([...inflated(bits(FIXED, literal(7), "11000101", distance(0), END), 100)]).toEqual(new Array(100).fill(7))
  })

  it("a stored block begins with the next byte, and its length is given twice", () => {
    expect([...inflated(Uint8Array.of(1, 3, 0, 0xfc, 0xff, 7, 8, 9), 99)]).toEqual([7, 8, 9])
    expect([...inflated(Uint8Array.of(1, 3, 0, 0xfc, 0xff, 7, 8), 2)]).toEqual([7, 8])
    expect(() => inflated(Uint8Array.of(1, 3, 0, 0xfc, 0xff, 7, 8), 3)).toThrow("ends inside")
    expect(() => inflated(Uint8Array.of(1, 3, 0, 0xfc, 0xfe, 7, 8, 9), 99)).toThrow("length of a stored")
    expect(() => inflated(Uint8Array.of(1, 3, 0, 0xfc), 99)).toThrow("ends inside")
  })

  /** A block that brings its codes along: the lengths of the precode by symbol, then fields. */
  const dynamic = (
    counts: readonly [number, number],
    precode: Readonly<Record<number, number>>,
    ...rest: (string | [number, number])[]
  ) => {
    const order = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15]
    return bits(
      [5, 3],
      [counts[0] - 257, 5],
      [counts[1] - 1, 5],
      [15, 4],
      ...order.map((symbol) => [precode[symbol] ?? 0, 3] as const),
      ...rest
    )
  }
  /** A precode of 0 for eleven and more zeroes (symbol 18) and 1 for a length of 1. */
  const PRECODE = { 1: 1, 18: 1 }

  it("a code of one symbol takes one bit, for literals as for distances", () => {
    const only = dynamic([257, 1], { 1: 2, 18: 2, 0: 1 }, "11", [138 - 11, 7], "11", [118 - 11, 7], "10", "0", "0")
    expect(inflated(only, 99)).toHaveLength(0)
    const noCode = dynamic([257, 1], { 1: 2, 18: 2, 0: 1 }, "11", [138 - 11, 7], "11", [118 - 11, 7], "10", "0", "1")
    expect(() => inflated(noCode, 99)).toThrow("without a meaning")
  })

  it.each<[string, string, Uint8Array]>([
    ["a reserved type", "reserved type", bits([7, 3])],
    ["a length code without a meaning", "without a meaning", bits(FIXED, "11000110")],
    ["a distance code without a meaning", "without a meaning", bits(FIXED, literal(1), "0000001", distance(30))],
    ["a distance beyond the data", "beyond its data", bits(FIXED, literal(1), "0000001", distance(1), END)],
    ["287 codes of lengths", "too many codes", dynamic([287, 1], PRECODE)],
    ["31 codes of distances", "too many codes", dynamic([257, 31], PRECODE)],
    ["an oversubscribed precode", "lengths in a deflate block is not a code", dynamic([257, 1], { 1: 1, 2: 1, 3: 1 })],
    ["an incomplete precode", "lengths in a deflate block is not a code", dynamic([257, 1], { 1: 1 })],
    ["a repetition before the first length", "before the first", dynamic([257, 1], { 16: 1, 1: 1 }, "1", [0, 2])],
    ["more lengths than codes", "too many codes", dynamic([257, 1], PRECODE, "1", [127, 7], "1", [127, 7])],
    ["no code for the end of the block", "has no end", dynamic([257, 1], { 1: 2, 18: 2, 0: 1 }, "11", [127, 7], "11", [109, 7])],
    ["too many codes of one bit", "not a code", dynamic([257, 1], { 1: 1, 18: 1 }, "0", "0", "1", [127, 7], "1", [116 - 11, 7], "0", "0")],
    ["a stream that ends inside its block", "ends inside", bits(FIXED, literal(1))],
  ])("%s: refused", (_, message, stream) => expect(() => inflated(stream, 99)).toThrow(message))
})

describe("bounded effort: more blocks than any encoder writes are refused", () => {
  const repeated = (bytes: Uint8Array, times: number): Uint8Array => new Uint8Array(Buffer.concat(new Array<Uint8Array>(times).fill(bytes)))
  /** Eight blocks of the fixed code, each with nothing but its end. */
  const fixedBlocks = bits(...new Array<string>(8).fill("0100000000"))
  const storedBlock = Uint8Array.of(0, 0, 0, 0xff, 0xff)
  /** With a code of its own, of symbol 256 alone. The precode has the symbols 0, 1 and 18; its order is 16, 17, 18, 0, ..., 1. */
  const ownCode: (string | [number, number])[] = [
    [4, 3], [0, 5], [0, 5], [14, 4], [0, 3], [0, 3], [2, 3], [1, 3], ...new Array<[number, number]>(13).fill([0, 3]), [2, 3],
    "11", [138 - 11, 7], "11", [118 - 11, 7], "10", "0", "0",
  ]
  const ownCodeBlocks = bits(...new Array<typeof ownCode>(8).fill(ownCode).flat())

  it.each<[string, Uint8Array, number, number, number]>([
    ["empty blocks of the fixed code", fixedBlocks, 8, 800, 2000],
    ["empty blocks with a code of their own", ownCodeBlocks, 8, 160, 400],
    ["empty stored blocks", storedBlock, 1, 800, 2000],
  ])("%s", (_, blocks, count, few, many) => {
    const last = bits([3, 3], "0000000")
    expect(inflated(new Uint8Array([...repeated(blocks, few / count), ...last]), 4096)).toHaveLength(0)
    expect(() => inflated(new Uint8Array([...repeated(blocks, many / count), ...last]), 4096)).toThrow("more blocks than any encoder")
  })

  it("the shortest blocks that zlib makes, with the least memory, are decompressed", () => {
    const content = makeContent("text", 300_000, 3)
    expect(isEqual(inflated(deflateRawSync(content, { memLevel: 1, windowBits: 9 }), content.length), content)).toBe(true)
  })
})
