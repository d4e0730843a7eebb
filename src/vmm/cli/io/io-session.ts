/** Runs the lines of `vioblk io` on an image. Prints qemu-io's words, so that scripts find them. */
import { readFileSync } from "node:fs"
import { BackingError, type VirtioBacking } from "../../../backing/backing.ts"
import { openImage } from "../../../backing/open.ts"
import { countOf, sizeOf, UsageError } from "../arguments.ts"
import { diskSize, partsOf } from "../disk-map/parts.ts"
import { formatBytes } from "../format.ts"
import { print } from "../output.ts"
import { IO_COMMANDS, type IoLine, parseIoLine, rangeOf } from "./io-line.ts"

/** Bytes of one call. */
const PIECE = 1 << 24
/** qemu-io's default pattern. */
const DEFAULT_PATTERN = 0xcd
/** Of a timer of JavaScript, in milliseconds. */
const LONGEST_SLEEP = 2 ** 31 - 1

type Image = ReturnType<typeof openImage>

/** Lines on one open image. */
export class IoSession {
  readonly #image: Image
  /** Whether a line has failed. */
  hasFailed = false
  /** Whether a line said "quit". */
  isOver = false

  constructor(image: Image) {
    this.#image = image
  }

  /** Runs one line, and prints its errors. */
  async run(text: string): Promise<void> {
    try {
      const line = parseIoLine(text)
      if (line !== undefined) await this.#perform(line)
    } catch (error) {
      if (!(error instanceof UsageError) && !(error instanceof BackingError)) throw error
      this.#fail(error.message)
    }
  }

  async #perform(line: IoLine): Promise<void> {
    const { name, words } = line
    if (name === "read") this.#read(line)
    else if (name === "write") this.#write(line)
    else if (name === "discard") this.#discard(line)
    else if (name === "flush") this.#image.flush()
    else if (name === "length") print(formatBytes(this.#image.size))
    else if (name === "alloc") this.#allocated(line)
    else if (name === "map") this.#map()
    else if (name === "sleep") await new Promise((resolve) => setTimeout(resolve, countOf(name, words[0] ?? "0", 0, LONGEST_SLEEP)))
    else if (name === "quit") this.isOver = true
    else for (const [command, { usage, meaning }] of Object.entries(IO_COMMANDS)) print(`${command} ${usage} -- ${meaning}`)
  }

  #read(line: IoLine): void {
    const { offset, length } = this.#range(line)
    const pattern = patternOf(line)
    const from = line.options.has("s") ? sizeOf("-s", line.options.get("s") ?? "") : 0
    const compared = line.options.has("l") ? sizeOf("-l", line.options.get("l") ?? "") : length - from
    if (pattern !== undefined && from + compared > length) throw new UsageError("-s and -l reach beyond the bytes that are read")
    const started = performance.now()
    let isWrong = false
    for (let done = 0; done < length; done += PIECE) {
      const bytes = new Uint8Array(Math.min(PIECE, length - done))
      this.#image.pread(bytes, offset + done)
      if (line.options.has("v")) for (const row of dumpLines(bytes, offset + done)) print(row)
      const [begin, end] = [Math.max(from - done, 0), Math.min(from + compared - done, bytes.length)]
      if (pattern !== undefined && begin < end && bytes.subarray(begin, end).some((byte) => byte !== pattern)) isWrong = true
    }
    if (isWrong) {
      const at = line.options.has("s") || line.options.has("l") ? from : offset
      this.#fail(`Pattern verification failed at offset ${at}, ${compared} bytes`)
    }
    report(line, `read ${length}/${length} bytes at offset ${offset}`, length, started)
  }

  #write(line: IoLine): void {
    const { offset, length } = this.#range(line)
    const { options } = line
    if (options.has("P") && (options.has("z") || options.has("s"))) throw new UsageError("write: -P, -s and -z exclude each other")
    if (options.has("u") && !options.has("z")) throw new UsageError("write -u needs -z")
    const started = performance.now()
    if (options.has("z")) this.#zero(offset, length, options.has("u"))
    else for (let done = 0; done < length; done += PIECE) this.#writePiece(line, offset + done, Math.min(PIECE, length - done), done)
    if (options.has("f")) this.#image.flush()
    report(line, `wrote ${length}/${length} bytes at offset ${offset}`, length, started)
  }

  #writePiece(line: IoLine, offset: number, length: number, done: number): void {
    const bytes = new Uint8Array(length).fill(patternOf(line) ?? DEFAULT_PATTERN)
    const file = line.options.get("s")
    if (file !== undefined) {
      const source = readFileSync(file)
      if (source.length === 0) throw new UsageError(`-s ${file}: the file is empty`)
      for (let at = 0; at < length; at++) bytes[at] = source[(done + at) % source.length] ?? 0
    }
    if (!line.options.has("c")) return this.#image.pwrite(bytes, offset)
    if (!("writeCompressed" in this.#image)) throw new UsageError("write -c: a raw image has no compressed clusters")
    this.#image.writeCompressed(bytes, offset)
  }

  #zero(offset: number, length: number, mayUnmap: boolean): void {
    this.#image.writeZeroes(offset, length, mayUnmap)
  }

  #discard(line: IoLine): void {
    const { offset, length } = this.#range(line)
    const started = performance.now()
    const disk: VirtioBacking = this.#image
    void disk.discard?.(offset, length)
    report(line, `discard ${length}/${length} bytes at offset ${offset}`, length, started)
  }

  #allocated(line: IoLine): void {
    const [offset, count = 512] = line.words.map((word) => sizeOf(line.name, word))
    if (offset === undefined) throw new UsageError("alloc needs an offset")
    const length = Math.max(Math.min(count, this.#image.size - offset), 0)
    let allocated = 0
    for (const { depth, present, length: bytes } of partsOf(this.#image, { offset, length })) if (present && depth === 0) allocated += bytes
    print(`${allocated}/${count} bytes allocated at offset ${formatBytes(offset)}`)
  }

  #map(): void {
    let [start, length] = [0, 0]
    let isHere: boolean | undefined
    const flush = (): void => {
      if (isHere === undefined || length === 0) return
      const state = isHere ? "    allocated" : "not allocated"
      print(`${formatBytes(length)} (0x${length.toString(16)}) bytes ${state} at offset ${formatBytes(start)} (0x${start.toString(16)})`)
    }
    for (const part of partsOf(this.#image, { offset: 0, length: diskSize(this.#image) })) {
      const here = part.present && part.depth === 0
      if (here !== isHere) {
        flush()
        ;[start, length, isHere] = [part.start, 0, here]
      }
      length += part.length
    }
    flush()
  }

  #range(line: IoLine): { readonly offset: number; readonly length: number } {
    const range = rangeOf(line)
    const { size } = this.#image
    if (range.offset + range.length > size) {
      throw new UsageError(`${line.name} failed: byte ${range.offset} and ${range.length} more are beyond the disk's end at ${size}`)
    }
    return range
  }

  #fail(message: string): void {
    this.hasFailed = true
    print(message)
  }
}

function patternOf({ options }: IoLine): number | undefined {
  const text = options.get("P")
  if (text === undefined) return undefined
  const value = Number(text)
  if (!/^(0x[\da-f]+|\d+)$/i.test(text) || value > 0xff) throw new UsageError(`-P ${text}: it must be a byte, 0 to 255`)
  return value
}

/** qemu-io's two lines about a request. */
function report({ options }: IoLine, what: string, bytes: number, started: number): void {
  if (options.has("q")) return
  const seconds = Math.max((performance.now() - started) / 1000, 1e-6)
  print(what)
  const rate = `${formatBytes(Math.round(bytes / seconds))}/sec and ${(1 / seconds).toFixed(4)} ops/sec`
  print(`${formatBytes(bytes)}, 1 ops; ${seconds.toFixed(2).padStart(5, "0")} sec (${rate})`)
}

/** "00000200:  07 07 ...  ........", 16 bytes a line. */
function* dumpLines(bytes: Uint8Array, offset: number): Generator<string> {
  for (let at = 0; at < bytes.length; at += 16) {
    const row = [...bytes.subarray(at, at + 16)]
    const hex = row.map((byte) => byte.toString(16).padStart(2, "0")).join(" ")
    const text = row.map((byte) => (byte > 31 && byte < 127 ? String.fromCharCode(byte) : ".")).join("")
    yield `${(offset + at).toString(16).padStart(8, "0")}:  ${hex}  ${text}`
  }
}
