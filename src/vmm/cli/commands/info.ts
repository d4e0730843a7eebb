/** `vioblk info`: what an image says of itself. Backing files are named, not opened. */
import { statSync } from "node:fs"
import { dirname, resolve } from "node:path"
import { decodeText } from "../../../backing/qcow2/format/bytes.ts"
import { HostFile } from "../../../backing/host/host-file.ts"
import { probeFormat } from "../../../backing/signatures.ts"
import { backingFormat, hasFeature, type Qcow2Header } from "../../../backing/qcow2/format/header.ts"
import { readHeader } from "../../../backing/qcow2/format/parse-header.ts"
import { readSnapshotTable, type Snapshot } from "../../../backing/qcow2/format/snapshot-table.ts"
import { AUTOCLEAR_BIT, COMPATIBLE_BIT, COMPRESSION_TYPE, CRYPT_METHOD, INCOMPATIBLE_BIT } from "../../../backing/qcow2/format/spec.ts"
import type { Arguments } from "../arguments.ts"
import { imageOf } from "../image-name.ts"
import { formatBytes } from "../format.ts"
import { print, printJson } from "../output.ts"

export async function info(given: Arguments): Promise<number> {
  const { path, format } = imageOf(given)
  const { json } = given
  const file = new HostFile(path, { readOnly: true })
  try {
    const facts = format === "raw" || (format === undefined && probeFormat(file) === "raw") ? rawFacts(file) : qcow2Facts(file)
    if (json) printJson(facts)
    else for (const line of factLines(facts)) print(line)
    return 0
  } finally {
    file.close()
  }
}

/** The names are those of `qemu-img info --output=json`. */
interface Facts {
  readonly filename: string
  readonly format: "raw" | "qcow2"
  /** Bytes. */
  readonly "virtual-size": number
  /** Bytes that the host has allocated. */
  readonly "actual-size": number
  readonly "dirty-flag": boolean
  readonly "cluster-size"?: number
  readonly encrypted?: boolean
  readonly "backing-filename"?: string
  readonly "full-backing-filename"?: string
  readonly "backing-filename-format"?: string
  readonly snapshots?: readonly ReturnType<typeof snapshotFacts>[]
  readonly "format-specific"?: { readonly type: "qcow2"; readonly data: ReturnType<typeof formatFacts> }
}

function rawFacts(file: HostFile): Facts {
  return { filename: file.path, format: "raw", "virtual-size": file.size(), "actual-size": allocatedBytes(file.path), "dirty-flag": false }
}

function qcow2Facts(file: HostFile): Facts {
  const header = readHeader(file)
  const { snapshots } = readSnapshotTable(file, header)
  const backing = header.backingFile === undefined ? undefined : decodeText(header.backingFile)
  const stated = backingFormat(header)
  return {
    filename: file.path,
    format: "qcow2",
    "virtual-size": header.size,
    "actual-size": allocatedBytes(file.path),
    "dirty-flag": hasFeature(header.incompatibleFeatures, INCOMPATIBLE_BIT.DIRTY),
    "cluster-size": 2 ** header.clusterBits,
    ...(header.cryptMethod !== CRYPT_METHOD.NONE && { encrypted: true }),
    ...(backing !== undefined && { "backing-filename": backing, "full-backing-filename": resolve(dirname(file.path), backing) }),
    ...(stated !== undefined && { "backing-filename-format": stated }),
    ...(snapshots.length > 0 && { snapshots: snapshots.map(snapshotFacts) }),
    "format-specific": { type: "qcow2", data: formatFacts(header) },
  }
}

function formatFacts(header: Qcow2Header) {
  const incompatible = (bit: number) => hasFeature(header.incompatibleFeatures, bit)
  return {
    compat: header.version === 2 ? "0.10" : "1.1",
    "compression-type": header.compressionType === COMPRESSION_TYPE.ZSTD ? "zstd" : "zlib",
    "lazy-refcounts": hasFeature(header.compatibleFeatures, COMPATIBLE_BIT.LAZY_REFCOUNTS),
    "refcount-bits": 2 ** header.refcountOrder,
    corrupt: incompatible(INCOMPATIBLE_BIT.CORRUPT),
    "extended-l2": incompatible(INCOMPATIBLE_BIT.EXTENDED_L2),
    ...(
      incompatible(INCOMPATIBLE_BIT.EXTERNAL_DATA_FILE) &&
      { "data-file-raw": hasFeature(header.autoclearFeatures, AUTOCLEAR_BIT.RAW_EXTERNAL_DATA) }
    ),
  }
}

function snapshotFacts(snapshot: Snapshot) {
  const clock = Number(snapshot.vmClockNanoseconds / 1_000_000_000n)
  return {
    id: snapshot.id,
    name: snapshot.name,
    "vm-state-size": snapshot.vmStateSize,
    "date-sec": snapshot.dateSeconds,
    "date-nsec": snapshot.dateNanoseconds,
    "vm-clock-sec": clock,
    "vm-clock-nsec": Number(snapshot.vmClockNanoseconds % 1_000_000_000n),
  }
}

function allocatedBytes(path: string): number {
  return statSync(path).blocks * 512
}

function factLines(facts: Facts): string[] {
  const specific = Object.entries(facts["format-specific"]?.data ?? {})
  return [
    `image: ${facts.filename}`,
    `file format: ${facts.format}`,
    `virtual size: ${formatBytes(facts["virtual-size"])} (${facts["virtual-size"]} bytes)`,
    `disk size: ${formatBytes(facts["actual-size"])}`,
    ...(facts.encrypted === true ? ["encrypted: yes"] : []),
    ...(facts["cluster-size"] === undefined ? [] : [`cluster_size: ${facts["cluster-size"]}`]),
    ...(facts["dirty-flag"] ? ["not closed cleanly: yes; opening it for writing repairs it"] : []),
    ...(
      facts["backing-filename"] === undefined
        ? []
        : [`backing file: ${facts["backing-filename"]} (actual path: ${facts["full-backing-filename"] ?? ""})`]
    ),
    ...(facts["backing-filename-format"] === undefined ? [] : [`backing file format: ${facts["backing-filename-format"]}`]),
    ...snapshotLines(facts.snapshots ?? []),
    ...(
      specific.length === 0
        ? []
        : ["Format specific information:", ...specific.map(([name, value]) => `    ${name.replaceAll("-", " ")}: ${value}`)]
    ),
  ]
}

function snapshotLines(snapshots: NonNullable<Facts["snapshots"]>): string[] {
  if (snapshots.length === 0) return []
  const rows = snapshots.map((snapshot) => {
    const date = new Date(snapshot["date-sec"] * 1000).toISOString().replace("T", " ").slice(0, 19)
    return `${snapshot.id.padEnd(9)} ${snapshot.name.padEnd(20)} ${formatBytes(snapshot["vm-state-size"]).padStart(10)} ${date}`
  })
  return ["Snapshot list:", "ID        TAG                     VM SIZE DATE (UTC)", ...rows]
}
