/** Where a conversion puts what it has read when it writes compressed clusters: several are compressed at once, and stored in order. */
import type { VirtioBacking } from "../../backing.ts"
import { isZero } from "../../buffers.ts"
import type { Sink } from "./disk-sink.ts"
import { zeroRange } from "./zero-range.ts"

/** What a disk that takes compressed clusters has: a qcow2 image does. */
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
  /** What is being compressed, in the order of the disk. */
  #pending: Pending[] = []

  constructor(target: VirtioBacking & CompressedTarget, options: { readonly parallel: number; readonly targetIsZero: boolean }) {
    this.#target = target
    this.#parallel = options.parallel
    this.#isTargetZero = options.targetIsZero
    this.unit = target.discardGranularity
  }

  /** A new one each time: it is held until its clusters have been compressed. */
  buffer(length: number): Uint8Array {
    return new Uint8Array(length)
  }

  async write(buffer: Uint8Array, offset: number): Promise<void> {
    for (let at = 0; at < buffer.length; at += this.unit) {
      const cluster = await this.#wholeCluster(buffer.subarray(at, at + this.unit), offset + at)
      // A cluster of zeroes takes no space at all.
      if (isZero(cluster)) {
        await this.zero(offset + at, cluster.length)
        continue
      }
      const stream = this.#target.compressLater(cluster)
      // It is told where it is waited for.
      stream.catch(() => undefined)
      this.#pending.push({ cluster, offset: offset + at, stream })
      if (this.#pending.length >= this.#parallel) await this.#storeFirst()
    }
  }

  /** The source may end within a cluster of the target: the rest of that is as it was. */
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
