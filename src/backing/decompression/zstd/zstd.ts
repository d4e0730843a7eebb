/** decompressZstd decompresses zstd frames into a buffer. RFC 8878. It refuses dictionaries, and bounds time and memory. */
import { viewOf } from "../../bytes/fields.ts"
import { DecompressionError } from "../decompression-error.ts"
import { Effort } from "../effort.ts"
import { copyRest, copySequences, type Output } from "./copy.ts"
import {
  BLOCK_HEADER_SIZE, BLOCK_TYPE, checkLeft, CHECKSUM_SIZE, type FrameHeader, readBlockHeader, readFrameHeader, skippableLength,
} from "./frame-header.ts"
import { Literals } from "./literals.ts"
import { Sequences } from "./sequences.ts"
import { checksumOf } from "./xxhash64.ts"

/** Positions are counted in bits, as 31-bit numbers. */
const MOST_INPUT = 2 ** 27
/** An offset of more than `MOST_OFFSET_BITS` bits is beyond an output of this length. */
const MOST_OUTPUT = 2 ** 24

/** The charge for a frame, skippable or not, and for a block. */
const STEP_EFFORT = 32
/** The charge for a table that a block describes. A block has at most four; the smallest window, 1 KiB, makes blocks of 1 KiB. */
const TABLE_EFFORT = 128

/** Made with the first frame, and reused for all: some 150 KiB. */
let literals: Literals | undefined
let sequences: Sequences | undefined

/**
 * Decompresses frame after frame into `output` until it is full or the input ends. Returns the number of bytes. Input after the frame that
 * fills the output is ignored.
 * @throws DecompressionError when the input is not zstd frames, or a frame has more content than fits
 * @throws RangeError for an input above 128 MiB or an output above 16 MiB
 */
export function decompressZstd(input: Uint8Array, output: Uint8Array): number {
  if (input.length > MOST_INPUT || output.length > MOST_OUTPUT) {
    throw new RangeError(`decompressZstd: ${input.length} bytes into ${output.length} bytes is more than it can do`)
  }
  const data = viewOf(input)
  const target: Output = {
    bytes: output, view: viewOf(output), frameStart: 0, length: 0,
  }
  const effort = new Effort(output.length)
  for (let at = 0; at < input.length && target.length < output.length;) {
    effort.spend(STEP_EFFORT)
    const skippable = skippableLength(data, at)
    at = skippable > 0 ? at + skippable : decompressFrame(data, input, at, { output: target, effort })
  }
  return target.length
}

/** Decompresses the frame at `start`. Returns the position after it. */
function decompressFrame(data: DataView, input: Uint8Array, start: number, { output, effort }: Pick<Frame, "output" | "effort">): number {
  const header = readFrameHeader(data, start)
  const { contentSize, hasChecksum } = header
  const room = output.bytes.length - output.length
  if (contentSize !== undefined && contentSize > room) {
    throw new DecompressionError(`a zstd frame of ${contentSize} bytes is longer than the ${room} that are left`)
  }
  output.frameStart = output.length
  literals ??= new Literals()
  sequences ??= new Sequences()
  literals.reset()
  sequences.reset()
  let at = decompressBlocks(data, input, start + header.length, { header, output, effort, literals, sequences })
  const length = output.length - output.frameStart
  if (contentSize !== undefined && length !== contentSize) {
    throw new DecompressionError(`a zstd frame of ${contentSize} bytes holds ${length}`)
  }
  if (hasChecksum) {
    checkLeft(data, at, CHECKSUM_SIZE)
    if (data.getUint32(at, true) !== checksumOf(output.view, output.frameStart, output.length)) {
      throw new DecompressionError("the checksum of a zstd frame is wrong")
    }
    at += CHECKSUM_SIZE
  }
  return at
}

interface Frame {
  readonly header: FrameHeader
  readonly output: Output
  readonly effort: Effort
  readonly literals: Literals
  readonly sequences: Sequences
}

/** Decompresses the blocks from `start` on. Returns the position after the last. */
function decompressBlocks(data: DataView, input: Uint8Array, start: number, frame: Frame): number {
  const { output } = frame
  for (let at = start;;) {
    const block = readBlockHeader(data, at)
    const size = block >>> 3
    const type = (block >>> 1) & 3
    at += BLOCK_HEADER_SIZE
    frame.effort.spend(STEP_EFFORT)
    const stored = type === BLOCK_TYPE.RLE ? 1 : size
    checkLeft(data, at, stored)
    if (size > frame.header.mostBlock) throw new DecompressionError(`a zstd block of ${size} bytes is longer than it may be`)
    if (type === BLOCK_TYPE.RESERVED) throw new DecompressionError("a zstd block has a reserved type")
    if (type === BLOCK_TYPE.COMPRESSED) decompressBlock(data, input, at, at + size, frame)
    else {
      if (size > output.bytes.length - output.length) throw new DecompressionError("a zstd frame is longer than there is room for")
      if (type === BLOCK_TYPE.RLE) output.bytes.fill(data.getUint8(at), output.length, output.length + size)
      else output.bytes.set(input.subarray(at, at + size), output.length)
      output.length += size
    }
    at += stored
    if ((block & 1) !== 0) return at
  }
}

/** Decompresses the compressed block in the bytes from `start` to `end`. */
function decompressBlock(data: DataView, input: Uint8Array, start: number, end: number, frame: Frame): void {
  const { output, effort, literals: texts, sequences: copies } = frame
  const { mostBlock } = frame.header
  const limit = Math.min(output.bytes.length, output.length + mostBlock)
  const sequencesAt = texts.read(data, input, start, end, mostBlock)
  copies.open(data, input, sequencesAt, end)
  effort.spend((texts.describedTables + copies.describedTables) * TABLE_EFFORT)
  while (copies.left > 0) copySequences(output, texts, copies, copies.decode(), limit)
  copyRest(output, texts, limit)
}
