/** `vioblk map`: where each part of a disk lives, in the image or in one of its backing files. */
import { openImage } from "../../../backing/open.ts"
import { Qcow2Image } from "../../../backing/qcow2/image.ts"
import { RawBacking } from "../../../backing/raw.ts"
import type { Arguments } from "../arguments.ts"
import { imageOf } from "../image-name.ts"
import { print, toJson } from "../output.ts"

/** The names are those of `qemu-img map --output=json`. `depth`: how many backing files down. */
interface Part {
  start: number
  length: number
  readonly depth: number
  /** Allocated in some image of the chain. */
  readonly present: boolean
  readonly zero: boolean
  readonly data: boolean
  readonly compressed: boolean
  readonly offset?: number
  readonly filename?: string
}

export async function map(given: Arguments): Promise<number> {
  const { path, format } = imageOf(given)
  const { json } = given
  const image = openImage(path, { readOnly: true, lockReadOnly: true, ...(format !== undefined && { format }) })
  try {
    const write = json ? jsonWriter() : tableWriter()
    let pending: Part | undefined
    for (const part of partsOf(image, 0, image.size, 0)) {
      if (pending !== undefined && continues(pending, part)) pending.length += part.length
      else {
        if (pending !== undefined) write.part(pending)
        pending = part
      }
    }
    if (pending !== undefined) write.part(pending)
    write.end()
    return 0
  } finally {
    image.close()
  }
}

/** The parts of `length` bytes from `offset` on, as `disk` has them, down to the images behind it. */
function* partsOf(disk: unknown, offset: number, length: number, depth: number): Generator<Part> {
  if (length === 0) return
  const nothing = { depth, present: false, zero: true, data: false, compressed: false } as const
  if (disk instanceof RawBacking) {
    const held = Math.max(Math.min(length, disk.size - offset), 0)
    if (held > 0) {
      yield { start: offset, length: held, depth, present: true, zero: false, data: true, compressed: false, offset, filename: disk.path }
    }
    if (held < length) yield { start: offset + held, length: length - held, ...nothing }
  } else if (disk instanceof Qcow2Image) {
    const held = Math.max(Math.min(length, disk.size - offset), 0)
    if (held > 0) yield* qcow2Parts(disk, offset, held, depth)
    if (held < length) yield { start: offset + held, length: length - held, ...nothing }
  } else {
    yield { start: offset, length, ...nothing }
  }
}

function* qcow2Parts(image: Qcow2Image, offset: number, length: number, depth: number): Generator<Part> {
  for (const extent of image.map(offset, length)) {
    const place = extent.hostOffset === undefined || extent.kind === "compressed" ? {} : { offset: extent.hostOffset, filename: image.path }
    const part = { start: extent.offset, length: extent.length, depth, present: true }
    if (extent.kind === "data") yield { ...part, zero: false, data: true, compressed: false, ...place }
    else if (extent.kind === "compressed") yield { ...part, zero: false, data: true, compressed: true, filename: image.path }
    else if (extent.kind === "zero") yield { ...part, zero: true, data: false, compressed: false, ...place }
    else if (image.backing === undefined) yield { ...part, present: false, zero: true, data: false, compressed: false }
    else yield* partsOf(image.backing, extent.offset, extent.length, depth + 1)
  }
}

/** Whether `next` goes on where `part` ends, in the guest and in the file. */
function continues(part: Part, next: Part): boolean {
  const alike = part.depth === next.depth && part.present === next.present && part.zero === next.zero && part.data === next.data &&
    part.compressed === next.compressed
  return alike && part.filename === next.filename &&
    (part.offset === undefined ? next.offset === undefined : next.offset === part.offset + part.length)
}

function jsonWriter() {
  let separator = "["
  return {
    part(part: Part) {
      print(`${separator}${toJson(part)}`)
      separator = ","
    },
    end() {
      print(separator === "[" ? "[]" : "]")
    },
  }
}

function tableWriter() {
  const hex = (value: number) => (value === 0 ? "0" : `0x${value.toString(16)}`).padEnd(15)
  print(`${"Offset".padEnd(15)} ${"Length".padEnd(15)} ${"Mapped to".padEnd(15)} File`)
  return {
    part(part: Part) {
      if (part.data) {
        const place = part.offset === undefined ? "compressed".padEnd(15) : hex(part.offset)
        print(`${hex(part.start)} ${hex(part.length)} ${place} ${part.filename ?? ""}`)
      }
    },
    end() {},
  }
}
