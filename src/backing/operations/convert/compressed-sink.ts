/** CompressedSink: writes the data of a conversion as compressed clusters. Compresses several in parallel, and stores them in order. */
import type { VirtioBacking } from "../../backing.ts"
import { isZero } from "../../bytes/buffers.ts"
import type { Sink } from "./disk-sink.ts"
import { zeroRange } from "./zero-range.ts"

/** The members of a disk that takes compressed clusters: a qcow2 image. */
export interface CompressedTarget {
  /** Bytes of a cluster. */
  readonly discardGranularity: number
  compressLater(cluster: Uint8Array): Promise<Uint8Array>
  writeCompressed(buffer: Uint8Array, offset: number, streams?: readonly Uint8Array[]): void
}

interface Pending {
  readonly cluster: Uint8Array
  readonly offset: number
  readonly stream: Promise<Uint8Array>
}

export class CompressedSink implements Sink {
  readonly unit: number
  readonly #target: VirtioBacking & CompressedTarget
  readonly #parallel: number
  readonly #isTargetZero: boolean
  /** Clusters that are being compressed, in the order of the disk. */
  #pending: Pending[] = []

  constructor(target: VirtioBacking & CompressedTarget, options: { readonly parallel: number; readonly targetIsZero: boolean }) {
    this.#target = target
    this.#parallel = options.parallel
    this.#isTargetZero = options.targetIsZero
    this.unit = target.discardGranularity
  }

  /** A new buffer each time, because it is in use until its clusters are compressed. */
  buffer(length: number): Uint8Array {
    return new Uint8Array(length)
  }

  async write(buffer: Uint8Array, offset: number): Promise<void> {
    for (let at = 0; at < buffer.length; at += this.unit) {
      const cluster = await this.#wholeCluster(buffer.subarray(at, at + this.unit), offset + at)
      // A zero cluster takes no space.
      if (isZero(cluster)) {
        await this.zero(offset + at, cluster.length)
        continue
      }
      const stream = this.#target.compressLater(cluster)
      // `#storeFirst` reports the error; this only prevents an unhandled rejection.
      stream.catch(() => undefined)
      this.#pending.push({ cluster, offset: offset + at, stream })
      if (this.#pending.length >= this.#parallel) await this.#storeFirst()
    }
  }

  /** Completes a last cluster, which the source fills only partly, with the old bytes of the target. */
  async #wholeCluster(content: Uint8Array, offset: number): Promise<Uint8Array> {
    const length = Math.min(this.unit, this.#target.size - offset)
    if (content.length === length) return content
    const cluster = new Uint8Array(length)
    cluster.set(content)
    await this.#target.pread(cluster.subarray(content.length), offset + content.length)
    return cluster
  }

  async zero(offset: number, length: number): Promise<void> {
    if (!this.#isTargetZero) await zeroRange(this.#target, offset, length)
  }

  async finish(): Promise<void> {
    while (this.#pending.length > 0) await this.#storeFirst()
  }

  async #storeFirst(): Promise<void> {
    const first = this.#pending.shift()
    if (first === undefined) return
    this.#target.writeCompressed(first.cluster, first.offset, [await first.stream])
  }
}
