/**
 * The file beside a raw image that stores its zones: a header of 512 bytes, then 16 bytes for each zone. Numbers are little-endian.
 *
 * Header: "VIOZONES", le32 version, le32 conventional zones, le64 size of the disk, le64 zone size, le64 zone capacity, le32 most open
 * zones, le32 most active zones, le64 most bytes of an append, le32 write granularity; the rest is 0. A zone: le64 bytes written, le32
 * condition (0 normal, 1 full, 2 read-only, 3 offline), le32 0. No record crosses a sector, so none is torn by a crash.
 */
import { BackingError } from "../backing.ts"
import type { ImageFile } from "../image-file.ts"
import { shapeProblem } from "./shape.ts"
import { type StoredZone, type ZoneCondition, type ZoneShape, ZoneTable } from "./zone-table.ts"
import type { ZoneStore } from "./zoned-disk.ts"

const MAGIC = "VIOZONES"
const VERSION = 1
const HEADER_SIZE = 512
const RECORD_SIZE = 16
/** Bytes of a block of records, the unit of writing. */
const BLOCK = 4096
const CONDITIONS: readonly ZoneCondition[] = ["normal", "full", "read-only", "offline"]

/** Writes a new file for a disk whose zones are all empty. */
export function createSideFile(file: ImageFile, shape: ZoneShape): void {
  const bytes = new Uint8Array(HEADER_SIZE + RECORD_SIZE * new ZoneTable(shape).count)
  const view = new DataView(bytes.buffer)
  bytes.set(Uint8Array.from(MAGIC, (char) => char.charCodeAt(0)))
  view.setUint32(8, VERSION, true)
  view.setUint32(12, shape.conventionalZones, true)
  putNumber(view, 16, shape.size)
  putNumber(view, 24, shape.zoneSize)
  putNumber(view, 32, shape.zoneCapacity)
  view.setUint32(40, shape.maxOpenZones, true)
  view.setUint32(44, shape.maxActiveZones, true)
  putNumber(view, 48, shape.maxAppendSize)
  view.setUint32(56, shape.writeGranularity, true)
  file.write(bytes, 0)
  file.sync()
}

/** Reads the zones of a disk of `size` bytes from `file`, and returns them with their store, which owns `file`. */
export function openSideFile(file: ImageFile, size: number): { readonly table: ZoneTable; readonly store: ZoneStore } {
  const header = new Uint8Array(HEADER_SIZE)
  if (file.read(header, 0) < HEADER_SIZE || String.fromCharCode(...header.subarray(0, 8)) !== MAGIC) {
    throw broken(file, "invalid-format", `it does not keep zones ("${MAGIC}" is missing)`)
  }
  const view = new DataView(header.buffer)
  const version = view.getUint32(8, true)
  if (version !== VERSION) throw broken(file, "unsupported", `version ${version} is not known; this program knows ${VERSION}`)
  const shape = readShape(view)
  const problem = shapeProblem(shape)
  if (problem !== undefined) throw broken(file, "corrupt", problem)
  if (shape.size !== size) throw broken(file, "corrupt", `it is for a disk of ${shape.size} bytes, but the image has ${size}`)
  const table = new ZoneTable(shape)
  const records = new Uint8Array(RECORD_SIZE * table.count)
  if (file.read(records, HEADER_SIZE) < records.length) throw broken(file, "corrupt", "it ends in the middle of its zones")
  const numbers = new DataView(records.buffer)
  for (let index = 0; index < table.count; index++) table.load(index, readZone(file, table, index, numbers))
  return { table, store: new SideFile(file, records) }
}

/** Writes the blocks of records that have changed. */
class SideFile implements ZoneStore {
  readonly #file: ImageFile
  readonly #records: Uint8Array
  readonly #numbers: DataView
  /** Blocks that a failed call may have partly written. */
  readonly #unsaved = new Set<number>()

  constructor(file: ImageFile, records: Uint8Array) {
    this.#file = file
    this.#records = records
    this.#numbers = new DataView(records.buffer)
  }

  save(zones: Iterable<readonly [index: number, zone: StoredZone]>): void {
    const before: (readonly [at: number, record: Uint8Array])[] = []
    for (const [index, { written, condition }] of zones) {
      const at = RECORD_SIZE * index
      before.push([at, this.#records.slice(at, at + RECORD_SIZE)])
      putNumber(this.#numbers, at, written)
      this.#numbers.setUint32(at + 8, CONDITIONS.indexOf(condition), true)
      this.#unsaved.add(Math.floor(at / BLOCK))
    }
    try {
      for (const block of this.#unsaved) {
        this.#file.write(this.#records.subarray(BLOCK * block, BLOCK * (block + 1)), HEADER_SIZE + BLOCK * block)
      }
      this.#file.sync()
    } catch (error) {
      // The next call, which may be for other zones, restores these: a failed reset must not take effect later.
      for (const [at, record] of before.toReversed()) this.#records.set(record, at)
      throw error
    }
    this.#unsaved.clear()
  }

  close(): void {
    this.#file.close()
  }
}

function readShape(view: DataView): ZoneShape {
  return {
    size: getNumber(view, 16),
    zoneSize: getNumber(view, 24),
    zoneCapacity: getNumber(view, 32),
    conventionalZones: view.getUint32(12, true),
    maxOpenZones: view.getUint32(40, true),
    maxActiveZones: view.getUint32(44, true),
    maxAppendSize: getNumber(view, 48),
    writeGranularity: view.getUint32(56, true),
  }
}

function readZone(file: ImageFile, table: ZoneTable, index: number, numbers: DataView): StoredZone {
  const at = RECORD_SIZE * index
  const written = getNumber(numbers, at)
  const condition = CONDITIONS[numbers.getUint32(at + 8, true)]
  const isWhole = written % table.shape.writeGranularity === 0 && written <= table.capacity(index)
  if (condition === undefined || !isWhole || numbers.getUint32(at + 12, true) !== 0) {
    throw broken(file, "corrupt", `zone ${index} is invalid: ${written} bytes written of ${table.capacity(index)}`, HEADER_SIZE + at)
  }
  return { written, condition }
}

/** 64 bits as two halves: exact up to 2^53, and larger values fail every check. */
function getNumber(view: DataView, at: number): number {
  return view.getUint32(at, true) + view.getUint32(at + 4, true) * 2 ** 32
}

function putNumber(view: DataView, at: number, value: number): void {
  view.setUint32(at, value % 2 ** 32, true)
  view.setUint32(at + 4, Math.floor(value / 2 ** 32), true)
}

function broken(file: ImageFile, code: "invalid-format" | "unsupported" | "corrupt", message: string, offset?: number): BackingError {
  return new BackingError(code, message, { path: file.path, offset })
}
