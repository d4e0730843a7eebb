/**
 * A qcow2 image as bytes in memory, to inspect and to damage. The layout is typed from the format document, and nothing comes from src, so
 * that a mistake there cannot hide itself here.
 */

const OFFSET_BITS = 0x00ff_ffff_ffff_fe00n

export class Qcow2Bytes {
  bytes: Uint8Array

  constructor(bytes: Uint8Array) {
    this.bytes = bytes.slice()
  }

  u8(at: number): number {
    return this.#view().getUint8(at)
  }

  u32(at: number): number {
    return this.#view().getUint32(at)
  }

  u64(at: number): bigint {
    return this.#view().getBigUint64(at)
  }

  setU8(at: number, value: number): this {
    this.#view().setUint8(at, value)
    return this
  }

  setU16(at: number, value: number): this {
    this.#view().setUint16(at, value)
    return this
  }

  setU32(at: number, value: number): this {
    this.#view().setUint32(at, value)
    return this
  }

  setU64(at: number, value: bigint): this {
    this.#view().setBigUint64(at, BigInt.asUintN(64, value))
    return this
  }

  get version(): number {
    return this.u32(4)
  }

  get clusterSize(): number {
    return 2 ** this.u32(20)
  }

  get size(): number {
    return Number(this.u64(24))
  }

  get l1Size(): number {
    return this.u32(36)
  }

  get l1Offset(): number {
    return Number(this.u64(40))
  }

  get refcountTableOffset(): number {
    return Number(this.u64(48))
  }

  get refcountTableClusters(): number {
    return this.u32(56)
  }

  get snapshotCount(): number {
    return this.u32(60)
  }

  get snapshotsOffset(): number {
    return Number(this.u64(64))
  }

  get incompatible(): bigint {
    return this.version < 3 ? 0n : this.u64(72)
  }

  get autoclear(): bigint {
    return this.version < 3 ? 0n : this.u64(88)
  }

  get refcountBits(): number {
    return this.version < 3 ? 16 : 2 ** this.u32(96)
  }

  /** Clusters of the file, the last one perhaps cut short. */
  get clusters(): number {
    return Math.ceil(this.bytes.length / this.clusterSize)
  }

  /** 16 with extended L2 entries. */
  get l2EntrySize(): number {
    return (this.incompatible & 16n) === 0n ? 8 : 16
  }

  /** Byte position of the L1 entry for a guest offset. */
  l1At(guestOffset: number): number {
    return this.l1Offset + 8 * Math.floor(guestOffset / (this.clusterSize * (this.clusterSize / this.l2EntrySize)))
  }

  /** Byte position of the L2 entry for a guest offset, or undefined without an L2 table. */
  l2At(guestOffset: number): number | undefined {
    const table = Number(this.u64(this.l1At(guestOffset)) & OFFSET_BITS)
    if (table === 0) return undefined
    return table + this.l2EntrySize * (Math.floor(guestOffset / this.clusterSize) % (this.clusterSize / this.l2EntrySize))
  }

  /** The bitmap of the extended L2 entry for a guest offset; 0 without an L2 table. */
  bitmap(guestOffset: number): bigint {
    const at = this.l2At(guestOffset)
    return at === undefined ? 0n : this.u64(at + 8)
  }

  setBitmap(guestOffset: number, bits: bigint): this {
    const at = this.l2At(guestOffset)
    if (at === undefined) throw new Error(`guest offset ${guestOffset} has no L2 table`)
    return this.setU64(at + 8, bits)
  }

  /** The L2 entry for a guest offset; 0 without an L2 table. */
  l2(guestOffset: number): bigint {
    const at = this.l2At(guestOffset)
    return at === undefined ? 0n : this.u64(at)
  }

  setL2(guestOffset: number, entry: bigint): this {
    const at = this.l2At(guestOffset)
    if (at === undefined) throw new Error(`guest offset ${guestOffset} has no L2 table`)
    return this.setU64(at, entry)
  }

  /** The guest cluster's byte position in the file; 0 without a host cluster. */
  hostOffset(guestOffset: number): number {
    return Number(this.l2(guestOffset) & OFFSET_BITS)
  }

  refcount(cluster: number): bigint {
    const place = this.#refcountPlace(cluster)
    if (place === undefined) return 0n
    const bits = this.refcountBits
    if (bits < 8) return BigInt((this.u8(place.at) >>> place.shift) & (2 ** bits - 1))
    let value = 0n
    for (let byte = 0; byte < bits / 8; byte++) value = (value << 8n) | BigInt(this.u8(place.at + byte))
    return value
  }

  setRefcount(cluster: number, value: bigint): this {
    const place = this.#refcountPlace(cluster)
    if (place === undefined) throw new Error(`cluster ${cluster} has no refcount block`)
    const bits = this.refcountBits
    if (bits < 8) {
      const mask = (2 ** bits - 1) << place.shift
      return this.setU8(place.at, (this.u8(place.at) & ~mask & 0xff) | ((Number(value) << place.shift) & mask))
    }
    for (let byte = 0; byte < bits / 8; byte++) this.setU8(place.at + byte, Number((value >> BigInt(bits - 8 - 8 * byte)) & 0xffn))
    return this
  }

  /** Byte position of the refcount block that covers a cluster; 0 without one. */
  refcountBlock(cluster: number): number {
    const index = Math.floor(cluster / this.#refcountsInBlock())
    if (index >= (this.refcountTableClusters * this.clusterSize) / 8) return 0
    return Number(this.u64(this.refcountTableOffset + 8 * index) & ~0x1ffn)
  }

  /** Extends the file with zeroes to whole clusters, plus `clusters` more. Returns the byte position of the new clusters. */
  grow(clusters: number): number {
    const end = this.clusters * this.clusterSize
    const bytes = new Uint8Array(end + clusters * this.clusterSize)
    bytes.set(this.bytes)
    this.bytes = bytes
    return end
  }

  /** Byte of the data of an extension, 0 without one. */
  extensionAt(type: number): number {
    for (let at = this.u32(100); this.u32(at) !== 0; at += 8 + Math.ceil(this.u32(at + 4) / 8) * 8) {
      if (this.u32(at) === type) return at + 8
    }
    return 0
  }

  /** Inserts an extension at the front of the extension area. The rest of the area, and a backing file name, move up. */
  insertExtension(type: number, data: Uint8Array): this {
    const begin = this.version < 3 ? 72 : this.u32(100)
    const length = 8 + Math.ceil(data.length / 8) * 8
    this.bytes.copyWithin(begin + length, begin, this.clusterSize - length)
    this.bytes.fill(0, begin, begin + length)
    this.setU32(begin, type).setU32(begin + 4, data.length)
    this.bytes.set(data, begin + 8)
    if (this.u64(8) !== 0n) this.setU64(8, this.u64(8) + BigInt(length))
    return this
  }

  #refcountsInBlock(): number {
    return (this.clusterSize * 8) / this.refcountBits
  }

  #refcountPlace(cluster: number): { at: number; shift: number } | undefined {
    const block = this.refcountBlock(cluster)
    if (block === 0) return undefined
    const bit = (cluster % this.#refcountsInBlock()) * this.refcountBits
    return { at: block + Math.floor(bit / 8), shift: bit % 8 }
  }

  #view(): DataView {
    return new DataView(this.bytes.buffer, this.bytes.byteOffset, this.bytes.byteLength)
  }
}
