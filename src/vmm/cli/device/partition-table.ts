/** The partition table in the first sectors of a disk, MBR or GPT, for display only. */

const SECTOR = 512
const MBR_ENTRIES = 4
/** The usual number and size of GPT entries; longer tables are cut. */
const MAX_GPT_ENTRIES = 128
const MAX_GPT_ENTRY_SIZE = 512
const PROTECTIVE_TYPE = 0xee

export interface Partition {
  readonly number: number
  /** First sector. */
  readonly start: number
  readonly sectors: number
  /** MBR: the type as two hexadecimal digits. GPT: the type's GUID. */
  readonly type: string
  readonly name?: string
  readonly bootable: boolean
}

export interface PartitionTable {
  readonly kind: "mbr" | "gpt"
  readonly partitions: readonly Partition[]
}

/** Sectors that `parsePartitionTable` reads: MBR, GPT header, and the usual place of the entries. */
export const PARTITION_TABLE_SECTORS = 2 + (MAX_GPT_ENTRIES * MAX_GPT_ENTRY_SIZE) / SECTOR

/** Reads the partition table from the first sectors of a disk; undefined when there is none. */
export function parsePartitionTable(start: Uint8Array): PartitionTable | undefined {
  const data = new DataView(start.buffer, start.byteOffset, start.length)
  if (start.length < SECTOR || data.getUint16(510, true) !== 0xaa55) return undefined
  const partitions = mbrPartitions(data)
  if (partitions.some(({ type }) => type === PROTECTIVE_TYPE.toString(16))) return parseGpt(data) ?? { kind: "mbr", partitions }
  // A boot sector of a file system has the same signature, and other data in place of partitions.
  return partitions.length > 0 ? { kind: "mbr", partitions } : undefined
}

function mbrPartitions(data: DataView): Partition[] {
  const partitions: Partition[] = []
  for (let index = 0; index < MBR_ENTRIES; index++) {
    const at = 446 + 16 * index
    const [flag, type, start, sectors] = [
      data.getUint8(at), data.getUint8(at + 4), data.getUint32(at + 8, true), data.getUint32(at + 12, true),
    ]
    if (flag !== 0 && flag !== 0x80) return []
    if (type !== 0 && sectors !== 0) {
      partitions.push({ number: index + 1, start, sectors, type: type.toString(16).padStart(2, "0"), bootable: flag === 0x80 })
    }
  }
  return partitions
}

function parseGpt(data: DataView): PartitionTable | undefined {
  if (data.byteLength < 2 * SECTOR || text(data, SECTOR, 8) !== "EFI PART") return undefined
  const table = number64(data, SECTOR + 72) * SECTOR
  const count = Math.min(data.getUint32(SECTOR + 80, true), MAX_GPT_ENTRIES)
  const size = data.getUint32(SECTOR + 84, true)
  if (size < 128 || size > MAX_GPT_ENTRY_SIZE) return undefined
  const partitions: Partition[] = []
  for (let index = 0; index < count; index++) {
    const at = table + index * size
    if (at + size > data.byteLength) break
    const type = guid(data, at)
    if (/^[0-]*$/.test(type)) continue
    const first = number64(data, at + 32)
    const name = Array.from({ length: 36 }, (_, i) => String.fromCharCode(data.getUint16(at + 56 + 2 * i, true)))
      .join("")
      .replace(/[\0\p{Cc}].*$/su, "")
    partitions.push({
      number: index + 1,
      start: first,
      sectors: number64(data, at + 40) - first + 1,
      type,
      name,
      bootable: (data.getUint8(at + 48) & 4) !== 0,
    })
  }
  return { kind: "gpt", partitions }
}

function number64(data: DataView, at: number): number {
  return data.getUint32(at, true) + data.getUint32(at + 4, true) * 2 ** 32
}

function text(data: DataView, at: number, length: number): string {
  return String.fromCharCode(...new Uint8Array(data.buffer, data.byteOffset + at, length))
}

/** The usual text of a GUID, whose first three groups are stored little-endian. */
function guid(data: DataView, at: number): string {
  const hex = (value: number, digits: number) => value.toString(16).padStart(digits, "0")
  const bytes = (from: number, count: number) => Array.from({ length: count }, (_, i) => hex(data.getUint8(at + from + i), 2)).join("")
  const groups = [hex(data.getUint32(at, true), 8), hex(data.getUint16(at + 4, true), 4), hex(data.getUint16(at + 6, true), 4)]
  return [...groups, bytes(8, 2), bytes(10, 6)].join("-").toUpperCase()
}
