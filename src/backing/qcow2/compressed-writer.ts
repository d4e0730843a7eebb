/** Stores whole guest clusters compressed. [QCOW2] "Cluster mapping", QC-CMP-12 */
import { BackingError } from "../backing.ts"
import type { Decompressor } from "./format/compression.ts"
import { compressedLimit, L2_KIND } from "./format/entries.ts"
import type { Geometry } from "./format/geometry.ts"
import type { Allocator } from "./metadata/allocator.ts"
import type { ClusterFile } from "./metadata/cluster-file.ts"
import type { Mapping } from "./metadata/mapping.ts"
import type { MetadataWriter } from "./metadata/metadata-writer.ts"
import type { Packer } from "./packer.ts"
import type { Reader } from "./reader.ts"
import type { Writer } from "./writer.ts"

export interface CompressedWriterOptions {
  readonly file: ClusterFile
  readonly geometry: Geometry
  readonly mapping: Mapping
  readonly reader: Reader
  readonly writer: Writer
  readonly metadataWriter: MetadataWriter
  readonly packer: Packer
  readonly allocator: Allocator
  readonly decompressor: Decompressor
  readonly compressionType: number
  /** An image with a data file has no compressed clusters (QC-CMP-13). */
  readonly hasDataFile: boolean
}

export class CompressedWriter {
  readonly #parts: CompressedWriterOptions

  constructor(options: CompressedWriterOptions) {
    this.#parts = options
  }

  /**
   * Stores `buffer` at guest byte `offset`: whole clusters, or up to the end of the disk. `streams` are the results of `compressLater`. A
   * cluster that does not shrink is stored uncompressed. After an error each cluster is either stored or untouched.
   * @throws BackingError `unsupported` for a cluster that is allocated, and if the platform cannot compress
   */
  write(buffer: Uint8Array, offset: number, streams: readonly Uint8Array[] = []): void {
    const { clusterSize, size } = this.#parts.geometry
    const { length } = buffer
    if (this.#parts.hasDataFile) {
      const message = "an image with an external data file cannot have compressed clusters; write them uncompressed"
      throw new BackingError("unsupported", message, { path: this.#parts.file.path })
    }
    if (offset % clusterSize !== 0 || (length % clusterSize !== 0 && offset + length !== size)) {
      const message = `compressed clusters are written whole: ${length} bytes at ${offset} are not whole clusters of ${clusterSize} bytes`
      throw new BackingError("invalid-argument", message, { path: this.#parts.file.path, offset })
    }
    for (let done = 0, index = 0; done < length; done += clusterSize, index++) {
      this.#writeCluster(buffer.subarray(done, done + clusterSize), offset + done, streams[index])
    }
  }

  #writeCluster(content: Uint8Array, offset: number, given: Uint8Array | undefined): void {
    const { geometry, mapping, metadataWriter, writer, allocator } = this.#parts
    metadataWriter.makeRoom()
    this.#refusePlace(offset)
    const stream = given ?? this.#compress(content)
    if (stream.length >= geometry.clusterSize) {
      writer.write([content], offset, content.length)
      return
    }
    const cluster = mapping.clusterOf(offset)
    const table = mapping.tableForWrite(mapping.tableOf(cluster))
    const host = this.#store(stream)
    const index = mapping.indexOf(cluster)
    const old = mapping.l2.references(table, index)
    mapping.l2.setCompressed(table, index, host, stream.length)
    if (old !== undefined) allocator.releaseLater(old.first, old.count)
  }

  /** As in QEMU, an allocated cluster must be overwritten in place, or discarded first (QC-CMP-12). */
  #refusePlace(offset: number): void {
    const { mapping, file } = this.#parts
    const cluster = mapping.clusterOf(offset)
    const table = mapping.table(mapping.tableOf(cluster))
    if (table === undefined) return
    const index = mapping.indexOf(cluster)
    const kind = mapping.l2.kind(table, index, 0)
    if (kind === L2_KIND.CORRUPT) throw mapping.corruptEntry(table, index)
    if (kind === L2_KIND.COMPRESSED || mapping.l2.host(table, index) === 0) return
    const message = `the cluster at guest byte ${offset} is allocated already; discard it before you write it compressed`
    throw new BackingError("unsupported", message, { path: file.path, offset })
  }

  #compress(content: Uint8Array): Uint8Array {
    const { decompressor, compressionType, geometry, file } = this.#parts
    if (decompressor.compress === undefined) throw cannotCompress(file.path)
    return decompressor.compress(padded(content, geometry.clusterSize), compressionType)
  }

  /** Writes a stream into the file. Returns its host byte, which no entry refers to yet. */
  #store(stream: Uint8Array): number {
    const { file, packer, reader, geometry } = this.#parts
    const { length } = stream
    const host = packer.allocate(length)
    try {
      if (host + length > compressedLimit(geometry)) {
        const message = `compressed data cannot lie beyond byte ${compressedLimit(geometry)}`
        throw new BackingError("no-space", message, { path: file.path })
      }
      file.write(stream, host)
    } catch (error) {
      packer.release(host, length)
      throw error
    }
    // The cache may hold an older stream of this place.
    reader.forgetDecompressed(host)
    return host
  }
}

/** Compresses one cluster of `image`; the last one of the disk may be shorter. @throws as `Qcow2Image.compressLater` */
export async function compressLater(
  decompressor: Decompressor,
  content: Uint8Array,
  image: { readonly path: string; readonly geometry: Geometry; readonly header: { readonly compressionType: number } },
): Promise<Uint8Array> {
  const { compressionType } = image.header
  const cluster = padded(content, image.geometry.clusterSize)
  if (decompressor.compressLater !== undefined) return await decompressor.compressLater(cluster, compressionType)
  if (decompressor.compress !== undefined) return decompressor.compress(cluster, compressionType)
  throw cannotCompress(image.path)
}

/** A cluster's content, padded with zeroes if the disk ends within the cluster. */
function padded(content: Uint8Array, clusterSize: number): Uint8Array {
  if (content.length === clusterSize) return content
  const whole = new Uint8Array(clusterSize)
  whole.set(content)
  return whole
}

function cannotCompress(path: string): BackingError {
  return new BackingError("unsupported", "this platform cannot compress clusters; write them uncompressed, or use Node", { path })
}
