/**
 * KeptPlaces: the option `discardNoUnref`. An L2 entry keeps its discarded cluster, marked as zeroes: the guest's next write goes to the
 * same cluster, so the image does not fragment. A hole in the file frees the space meanwhile, if the file supports holes.
 */
import type { Geometry } from "./format/geometry.ts"
import { L2_KIND } from "./format/entries.ts"
import type { ClusterFile } from "./metadata/cluster-file.ts"
import { Extent } from "./metadata/extent.ts"
import type { Mapping } from "./metadata/mapping.ts"
import type { MetadataMap } from "./metadata/metadata-map.ts"
import { Puncher } from "./metadata/puncher.ts"
import type { Refcounts } from "./metadata/refcounts.ts"

/** Clusters to examine for one hole. Each is examined twice, in about 2 ms altogether. */
const MOST_LOOKED_AT = 4096

export interface KeptPlacesOptions {
  readonly file: ClusterFile
  readonly geometry: Geometry
  readonly mapping: Mapping
  readonly refcounts: Refcounts
  readonly metadata: MetadataMap
}

export class KeptPlaces {
  readonly #parts: KeptPlacesOptions
  /** In guest clusters, not host clusters. */
  readonly #puncher: Puncher
  /** The last noted run of clusters: `#first` to `#end`. */
  #first = 0
  #end = 0

  constructor(options: KeptPlacesOptions) {
    this.#parts = options
    const { file, geometry } = options
    const guest = {
      get punchesAtOnce(): number {
        return Math.min(file.punchesAtOnce, MOST_LOOKED_AT * geometry.clusterSize)
      },
      punch: (offset: number, length: number): void => this.#punchGuest(offset, length),
    }
    this.#puncher = new Puncher({ file: guest, geometry, isFree: (cluster) => this.#placeOf(cluster) > 0 })
  }

  /** Notes a discarded guest cluster. */
  add(cluster: number): void {
    if (cluster !== this.#end) {
      this.#finishRun()
      this.#first = cluster
    }
    this.#end = cluster + 1
  }

  /** Punches at most `most` holes for noted clusters. Call it only after their zero flags are durable. */
  punch(most: number): void {
    this.#finishRun()
    this.#puncher.punch(most)
  }

  #finishRun(): void {
    if (this.#first < this.#end) this.#puncher.add(this.#first, this.#end - this.#first)
    this.#first = this.#end
  }

  /**
   * Host byte of a guest cluster that is still marked as zeroes and has no other reference, otherwise 0. The metadata check is for hostile
   * images, whose entries may name metadata.
   */
  #placeOf(cluster: number): number {
    const { mapping, geometry, refcounts, metadata } = this.#parts
    const extent = new Extent()
    mapping.find(cluster * geometry.clusterSize, geometry.clusterSize, extent)
    if (extent.kind !== L2_KIND.ZERO_ALLOCATED || extent.length < geometry.clusterSize || !this.#isOwn(cluster)) return 0
    const isOnly = refcounts.get(extent.host / geometry.clusterSize) === 1
    return isOnly && metadata.findForData(extent.host, geometry.clusterSize) === undefined ? extent.host : 0
  }

  /** Whether the COPIED flags say that no snapshot shares the cluster. */
  #isOwn(cluster: number): boolean {
    const { mapping } = this.#parts
    const table = mapping.table(mapping.tableOf(cluster))
    return table?.isOwn === true && mapping.l2.hasOwnPlace(table, mapping.indexOf(cluster))
  }

  /** Punches one hole for each run of clusters that is contiguous in the file too. */
  #punchGuest(offset: number, length: number): void {
    const { file, geometry } = this.#parts
    const { clusterSize } = geometry
    const first = offset / clusterSize
    const end = first + length / clusterSize
    for (let cluster = first; cluster < end;) {
      const host = this.#placeOf(cluster)
      let count = 1
      while (cluster + count < end && this.#placeOf(cluster + count) === host + count * clusterSize) count++
      file.punch(host, count * clusterSize)
      cluster += count
    }
  }
}
