/** zstd frames: those that `zstd` made, and frames by hand for what it makes rarely or never. RFC 8878 */
import { describe, expect, it } from "vitest"
import { DecompressionError } from "../../../src/backing/decompression/decompression-error.ts"
import { zstdFrameLength } from "../../../src/backing/decompression/zstd/frame-header.ts"
import { decompressZstd } from "../../../src/backing/decompression/zstd/zstd.ts"
import { CONTENT_KINDS, makeContent } from "./contents.ts"
import { Rng, seedFromEnvironment } from "../../support/rng.ts"
import { backward, block, frame, goldenFrames, itWithZstd, runZstd, skippable } from "./zstd-frames.ts"

/** Bytes around an output that must stay as they are. */
const GUARD = 32

/** What `input` decompresses to with room for `room` bytes; the bytes around both are looked at. */
function decompressed(input: Uint8Array, room: number): Uint8Array {
  const around = new Uint8Array(GUARD + input.length + GUARD).fill(0xff)
  around.set(input, GUARD)
  const output = new Uint8Array(GUARD + room + GUARD).fill(0xa5)
  const length = decompressZstd(around.subarray(GUARD, GUARD + input.length), output.subarray(GUARD, GUARD + room))
  expect([...output.subarray(0, GUARD), ...output.subarray(GUARD + room)].every((byte) => byte === 0xa5)).toBe(true)
  return output.slice(GUARD, GUARD + length)
}

const isEqual = (one: Uint8Array, other: Uint8Array): boolean => Buffer.compare(one, other) === 0
const joined = (...parts: readonly Uint8Array[]): Uint8Array => new Uint8Array(Buffer.concat(parts))

describe("frames that zstd made", () => {
  it.each(goldenFrames)("QC-CMP-07 $name ($options)", ({ frame: bytes, content }) => {
    expect(isEqual(decompressed(bytes, content.length), content)).toBe(true)
    expect(isEqual(decompressed(bytes, content.length + 100), content)).toBe(true)
    expect(zstdFrameLength(bytes)).toBe(bytes.length)
    expect(zstdFrameLength(joined(bytes, Uint8Array.of(1, 2, 3)))).toBe(bytes.length)
  })

  it.each(goldenFrames.filter(({ content }) => content.length > 1))("QC-CMP-07 $name cut off, or without room, is refused", (golden) => {
    const { frame: bytes, content } = golden
    expect(() => decompressed(bytes, content.length - 1)).toThrow(DecompressionError)
    for (const cut of [1, 2, 3, 4, 5, 9, Math.floor(bytes.length / 2), bytes.length - 1]) {
      expect(() => decompressed(bytes.subarray(0, cut), content.length)).toThrow(DecompressionError)
      expect(() => zstdFrameLength(bytes.subarray(0, cut))).toThrow("ends inside a zstd frame")
    }
  })

  it("a checksum finds a changed byte of an uncompressed block", () => {
    for (const { frame: bytes } of goldenFrames.filter(({ name }) => name === "cluster-random")) {
      for (const at of [9, 100, 4000, bytes.length - 1]) {
        const changed = Uint8Array.from(bytes)
        changed[at] = (changed[at] ?? 0) ^ 1
        expect(() => decompressed(changed, 4096)).toThrow("checksum")
      }
    }
  })

  itWithZstd("QC-CMP-07 frames of any content, level and size are decompressed", () => {
    const rng = new Rng(seedFromEnvironment(20261126))
    const sizes = [0, 1, 3, 31, 32, 33, 255, 256, 257, 1000, 4096, 65536, 131_072, 131_073, 300_000]
    const options = [
      "-1", "-3", "-9", "-19", "--ultra -22", "--fast=5", "--no-compress-literals", "-6 --zstd=wlog=10", "-19 --no-content-size",
    ]
    for (let round = 0; round < 25; round++) {
      const kind = rng.pick(CONTENT_KINDS)
      const content = makeContent(kind, rng.chance(0.5) ? rng.pick(sizes) : rng.below(20_000), rng.u32())
      const words = [...rng.pick(options).split(" "), rng.chance(0.5) ? "--check" : "--no-check"]
      const made = runZstd(content, ...words)
      const what = `${content.length} bytes of ${kind}, ${words.join(" ")}`
      expect(isEqual(decompressed(made, content.length), content), what).toBe(true)
      expect(zstdFrameLength(made), what).toBe(made.length)
    }
  })
})

describe("several frames", () => {
  const [first, second] = [frame([block(0, [1, 2, 3])]), frame([block(1, [7], 5)])]

  it("QC-CMP-07 several frames are decoded one after the other, and skippable frames between them are skipped", () => {
    expect([...decompressed(joined(skippable([9, 9]), first, skippable([], 15), second), 8)]).toEqual([1, 2, 3, 7, 7, 7, 7, 7])
    expect([...decompressed(joined(first, second), 100)]).toEqual([1, 2, 3, 7, 7, 7, 7, 7])
  })

  it("QC-CMP-06 QC-CMP-07 bytes behind the frame that fills the output are not looked at", () => {
    expect([...decompressed(joined(first, Uint8Array.of(1, 2, 3, 4, 5)), 3)]).toEqual([1, 2, 3])
    expect(() => decompressed(joined(first, Uint8Array.of(1, 2, 3, 4, 5)), 4)).toThrow("not a zstd frame")
    expect(() => decompressed(joined(first, second), 7)).toThrow("longer than there is room for")
    expect([...decompressed(skippable([1]), 7)]).toEqual([])
    expect(zstdFrameLength(joined(skippable([9, 9, 9]), Uint8Array.of(99)))).toBe(11)
    expect(() => zstdFrameLength(skippable([9, 9, 9]).subarray(0, 10))).toThrow("ends inside")
  })

  it("keep to themselves: a match does not reach into the frame before, and no frame uses the tables of another", () => {
    const { frame: bytes, content } = goldenFrames.find(({ name }) => name === "cluster-text-1") ?? { frame: first, content: first }
    expect(isEqual(decompressed(joined(bytes, bytes), 2 * content.length), joined(content, content))).toBe(true)
    // No literals; one sequence of length 3 at an offset of 1 (the first of the latest, with one literal before it).
    const copy = [0x08, 7, 1, 0x54, 1, 0, 0, 1]
    expect([...decompressed(frame([block(2, copy)]), 9)]).toEqual([7, 7, 7, 7])
    expect(() => decompressed(joined(frame([block(2, copy)]), frame([block(2, [0, 1, 0x54, 0, 0, 0, 1])])), 99)).toThrow("offset")
    for (const modes of [0xc0, 0x30, 0x0c]) {
      expect(
        () => decompressed(joined(frame([block(2, copy)]), frame([block(2, [0x08, 7, 1, modes, 0, 1])])), 99),
      ).toThrow("repeats a table")
    }
    const treeless = [0x03 | 0x10, 0x40, 0, 1]
    expect(() => decompressed(joined(bytes, frame([block(2, treeless)])), 99_999)).toThrow("has none")
  })
})

describe("sequences by hand", () => {
  /** A block of raw literals and of sequences whose three codes are constant; `numbers` are the extra bits. */
  const constant = (literals: readonly number[], codes: readonly [number, number, number], count: number, numbers: [number, number][]) =>
    block(2, [literals.length << 3, ...literals, count, 0x54, ...codes, ...backward(numbers)])

  it("repeated offsets: with literals the latest is the first, and the one that is used moves to the front", () => {
    const literals = Array.from({ length: 20 }, (_, index) => index + 1)
    // Literal length 16 plus one bit, an offset of code 2 (1 to 4 after three are taken off), a match of 3.
    const far = constant(literals, [16, 2, 0], 1, [[3, 2], [1, 1]])
    expect([...decompressed(frame([far]), 99)]).toEqual([...literals.slice(0, 17), 14, 15, 16, 18, 19, 20])
    // Offset codes of 1 bit: 2 and 3, the second and the third of the latest (4, then 8, at the beginning 1, 4, 8).
    const repeated = constant(literals, [8, 1, 0], 2, [[0, 1], [1, 1]])
    expect([...decompressed(frame([repeated]), 99)]).toEqual([
      1, 2, 3, 4, 5, 6, 7, 8, 5, 6, 7, 9, 10, 11, 12, 13, 14, 15, 16, 9, 10, 11, 17, 18, 19, 20,
    ])
    // The third moves to the front, and the one before it becomes the third: 8, then 4.
    const third = constant(literals, [8, 1, 0], 2, [[1, 1], [1, 1]])
    expect([...decompressed(frame([third]), 99)]).toEqual([
      1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3, 9, 10, 11, 12, 13, 14, 15, 16, 13, 14, 15, 17, 18, 19, 20,
    ])
  })

  it("repeated offsets without literals: the third is the first minus one, and an offset of 0 is refused", () => {
    const first = constant([1, 2, 3, 4, 5, 6, 7, 8], [8, 2, 0], 1, [[1, 2]])
    const open = [...first]
    open[0] = (open[0] ?? 0) & ~1
    const second = constant([], [0, 1, 0], 1, [[1, 1]])
    // The offset before was 2, so this one is 1.
    expect([...decompressed(frame([open, second]), 99)]).toEqual([1, 2, 3, 4, 5, 6, 7, 8, 7, 8, 7, 7, 7, 7])
    const notLast = [...second]
    notLast[0] = (notLast[0] ?? 0) & ~1
    expect(() => decompressed(frame([open, notLast, second]), 99)).toThrow("offset beyond its data")
  })

  it.each<[string, string, Uint8Array]>([
    ["too few literals", "too few literals", frame([constant([1], [8, 0, 0], 1, [])])],
    ["bits left over", "do not end where they should", frame([constant([1], [1, 0, 0], 1, [[0, 3]])])],
    ["too few bits", "end too early", frame([constant([1], [1, 2, 0], 1, [])])],
    ["an offset of 2^25", "offset beyond its data", frame([constant([1], [1, 25, 0], 1, [[0, 25]])])],
    ["a code that does not exist", "no table of literal lengths", frame([constant([1], [36, 0, 0], 1, [])])],
    ["an offset code that does not exist", "no table of offsets", frame([constant([1], [1, 32, 0], 1, [])])],
    ["a match code that does not exist", "no table of match lengths", frame([constant([1], [1, 0, 53], 1, [])])],
    ["a reserved bit", "reserved bit", frame([block(2, [0x08, 7, 1, 0x55, 1, 0, 0, 1])])],
    ["no modes", "end too early", frame([block(2, [0x08, 7, 1])])],
    ["bits without the mark of their beginning", "no beginning", frame([block(2, [0x08, 7, 1, 0x54, 1, 0, 0, 0])])],
    ["no bits at all", "no beginning", frame([block(2, [0x08, 7, 1, 0x54, 1, 0, 0])])],
    ["data behind 0 sequences", "after its last sequence", frame([block(2, [0x08, 7, 0, 0])])],
    ["no section of sequences", "end too early", frame([block(2, [0x08, 7])])],
    ["no literals at all", "end too early", frame([block(2, [])])],
    ["a table that has too many states", "2^20 states", frame([block(2, [0x08, 7, 1, 0x80, 0x0f, 0, 0, 1])])],
    ["a table that is cut off", "ends too early", frame([block(2, [0x08, 7, 1, 0x80])])],
    ["more bytes than a block may have", "longer than it may be", frame([constant([1, 2], [1, 0, 52], 1, [[0, 16]])])],
  ])("%s: refused", (_, message, bytes) => expect(() => decompressed(bytes, 1 << 20)).toThrow(message))
})

describe("headers", () => {
  it.each<[string, string, Uint8Array]>([
    ["another magic number", "not a zstd frame", Uint8Array.of(1, 2, 3, 4, 5, 6, 7, 8, 9)],
    ["a reserved bit", "reserved bit of a zstd frame", frame([block(0, [1])], [0x08, 0])],
    ["a dictionary", "needs a dictionary", frame([block(0, [1])], [0x01, 0, 5])],
    ["a window above 128 MiB", "a window of 268435456 bytes", frame([block(0, [1])], [0, 18 << 3])],
    ["a block of a reserved type", "reserved type", frame([block(3, [1])])],
    ["a block longer than the window", "longer than it may be", frame([block(1, [1], 1025)])],
    ["content longer than it says", "holds 3", frame([block(0, [1], 1, false), block(0, [1, 2])], [0x20, 2])],
    ["content shorter than it says", "holds 1", frame([block(0, [1])], [0x20, 2])],
    ["content of 2^63 bytes", "is longer than the 1048576", frame([block(0, [1])], [0xe0, 0, 0, 0, 0, 0, 0, 0, 0x80])],
    ["no last block", "ends inside", frame([block(0, [1], 1, false)])],
    ["no checksum", "ends inside", frame([block(0, [1])], [0x04, 0])],
    ["a checksum that is wrong", "checksum", joined(frame([block(0, [1])], [0x04, 0]), Uint8Array.of(0, 0, 0, 0))],
  ])("%s: refused", (_, message, bytes) => expect(() => decompressed(bytes, 1 << 20)).toThrow(message))

  it("dictionary 0 means that there is none, and content sizes of 1, 2, 4 and 8 bytes are read", () => {
    expect([...decompressed(frame([block(0, [1])], [0x02, 0, 0, 0]), 9)]).toEqual([1])
    expect([...decompressed(frame([block(0, [1])], [0x20, 1]), 9)]).toEqual([1])
    expect(decompressed(frame([block(1, [1], 300)], [0x60, 44, 0]), 999)).toHaveLength(300)
    expect([...decompressed(frame([block(0, [1])], [0xa0, 1, 0, 0, 0]), 9)]).toEqual([1])
    expect([...decompressed(frame([block(0, [1])], [0xe0, 1, 0, 0, 0, 0, 0, 0, 0]), 9)]).toEqual([1])
  })

  it("a raw block, a repeated one and a checksum are read, by hand", () => {
    expect(zstdFrameLength(joined(frame([block(0, [1, 2, 3, 4])], [0x20, 4]), Uint8Array.of(99)))).toBe(13)
    const two = frame([block(1, [7], 100, false), block(0, [])], [0x04, 0x58])
    expect(zstdFrameLength(joined(two, Uint8Array.of(1, 1, 1, 1, 99)))).toBe(17)
    expect(() => zstdFrameLength(frame([block(3, [])]))).toThrow("reserved")
  })

  it("input or output that is too long for its numbers is a RangeError", () => {
    expect(() => decompressZstd(frame([]), new Uint8Array(2 ** 24 + 1))).toThrow(RangeError)
  })
})

describe("Huffman tables by hand", () => {
  /** A block of `count` literals from one stream: `table` and `stream` are bytes. */
  const literals = (count: number, table: readonly number[], stream: readonly number[]) => {
    const stored = table.length + stream.length
    const header = 2 | (count << 4) | (stored << 14)
    return block(2, [header & 0xff, (header >>> 8) & 0xff, header >>> 16, ...table, ...stream, 0])
  }

  it("weights of four bits give the codes: the last weight is computed, and the longest codes come first", () => {
    // Weights 1, 1 for symbols 0 and 1; 2 is left for symbol 2: codes 00, 01 and 1.
    const stream = backward([[1, 1], [0, 2], [1, 2], [1, 1]])
    expect([...decompressed(frame([literals(4, [128 + 1, 0x11], stream)]), 99)]).toEqual([2, 0, 1, 2])
    expect(() => decompressed(frame([literals(5, [128 + 1, 0x11], stream)]), 99)).toThrow("ends too early")
    expect(() => decompressed(frame([literals(3, [128 + 1, 0x11], stream)]), 99)).toThrow("does not end where it should")
  })

  it.each<[string, string, number[]]>([
    ["no weights", "ends too early", [0]],
    ["weights beyond the block", "ends too early", [255]],
    ["all weights 0", "do not make a code", [128 + 1, 0]],
    ["a weight of 12", "a weight of 12", [128 + 1, 0xc1]],
    ["a remainder that is no power of two", "do not make a code", [128 + 1, 0x31]],
    ["no code of the greatest length", "no codes of the greatest length", [128, 0x20]],
  ])("%s: refused", (_, message, table) => {
    expect(() => decompressed(frame([literals(1, table, [1])]), 99)).toThrow(message)
  })

  it("a block with more literals than it may have, or than are stored, is refused", () => {
    expect(() => decompressed(frame([block(2, [0x0c | (15 << 4), 0xff, 0xff, 1])]), 1 << 20)).toThrow("literals, of at most 1024")
    expect(() => decompressed(frame([block(2, [9 << 3, 1, 2, 3])]), 99)).toThrow("end too early")
    expect(() => decompressed(frame([block(2, [0x0e, 0, 0])]), 99)).toThrow("end too early")
    // Four streams for five literals.
    expect(() => decompressed(frame([block(2, [0x56, 0x40, 2, 129, 0x11, 1, 0, 1, 0, 1, 0, 1, 1, 1, 1, 0])]), 99)).toThrow("ends too early")
  })
})

describe("bounded effort: more blocks and tables than any encoder writes are refused", () => {
  const many = (bytes: readonly number[], times: number): number[][] =>
    [block(1, [7], 8, false), ...new Array<number[]>(times).fill([...bytes]), block(0, [])]
  /** One sequence, of three bytes from four back. Its three tables are described: 32 states for symbol 0 each. */
  const described = block(2, [0, 1, 0xa8, 0xf0, 3, 0xf0, 3, 0xf0, 3, ...backward([[0, 15]])], undefined, false)
  /** Literals with a Huffman table of 2^11 entries. */
  const coded = block(2, [0x12, 0, 0x02, 138, 0xba, 0x98, 0x76, 0x54, 0x32, 0x10, 3, 0], undefined, false)

  it.each<[string, readonly number[], number, number]>([
    ["empty raw blocks", block(0, [], 0, false), 400, 800],
    ["empty repeated blocks", block(1, [0], 0, false), 400, 800],
    ["blocks without literals and sequences", block(2, [0, 0], undefined, false), 400, 800],
    ["tables for one sequence each", described, 30, 100],
    ["tables for one literal each", coded, 90, 200],
  ])("%s", (_, bytes, few, much) => {
    expect(() => decompressed(frame(many(bytes, few)), 4096)).not.toThrow()
    expect(() => decompressed(frame(many(bytes, much)), 4096)).toThrow("more blocks than any encoder")
  })

  it.each<[string, Uint8Array]>([["frames", frame([block(0, [])])], ["skippable frames", skippable([])]])("empty %s", (_, bytes) => {
    expect(decompressed(joined(...new Array<Uint8Array>(200).fill(bytes)), 4096)).toHaveLength(0)
    expect(() => decompressed(joined(...new Array<Uint8Array>(800).fill(bytes)), 4096)).toThrow("more blocks than any encoder")
  })

  itWithZstd("the shortest blocks that zstd makes are decompressed", () => {
    for (const kind of CONTENT_KINDS) {
      const content = makeContent(kind, 300_000, 11)
      for (const options of [["-19", "--zstd=wlog=10"], ["-3", "--zstd=wlog=10"]]) {
        expect(isEqual(decompressed(runZstd(content, ...options), content.length), content), `${kind} ${options.join(" ")}`).toBe(true)
      }
    }
  })
})
