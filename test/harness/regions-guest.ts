/**
 * RegionsGuest: a guest whose RAM is in several regions, at any addresses, with a virtio block device without a transport. Each queue has
 * its ring in one of the regions. It checks nothing.
 */
import type { VirtioBlkOptions } from "../../src/virtio/blk/config.ts"
import { VirtioBlk } from "../../src/virtio/blk/device.ts"
import { type GuestMemory, RamRegion } from "../../src/virtio/guest-memory.ts"
import type { VirtioBacking } from "../../src/backing/backing.ts"
import { PackedRing } from "./packed-ring.ts"
import { type Piece, Ring } from "./ring.ts"
import { F, mask, UP } from "./words.ts"

/** A region of RAM: its first address, and its bytes. */
export interface Space {
  readonly start: number
  readonly ram: Uint8Array
}

export interface RegionsGuestOptions {
  readonly backing: VirtioBacking
  readonly disk?: VirtioBlkOptions
  readonly spaces: readonly Space[]
  /** For each queue, the index of the space that holds its ring, at the space's beginning. */
  readonly queues: readonly number[]
  /** The same of the part of its ring that the device writes. Default: as `queues`. */
  readonly usedSpaces?: readonly number[]
  readonly packed: boolean
  readonly features?: readonly number[]
  /** Descriptors of each ring. Default 64. */
  readonly size?: number
}

/** Bytes at the beginning of a space that a ring takes up. */
export const RING_BYTES = 0x2000

export class RegionsGuest implements GuestMemory {
  generation = 0
  declare written?: (address: number, length: number) => void
  readonly disk: VirtioBlk
  rings: readonly Ring[] = []
  /** Indices of the queues that have interrupted. */
  readonly irqs: number[] = []
  onInterrupt: (queue: number) => void = () => undefined
  readonly spaces: readonly Space[]
  regions: readonly RamRegion[]
  readonly #features: bigint
  readonly #queues: readonly number[]
  readonly #usedSpaces: readonly number[]
  readonly #isPacked: boolean
  readonly #size: number

  constructor(options: RegionsGuestOptions) {
    const { backing, disk, spaces, queues, packed, features = [F.INDIRECT_DESC, F.FLUSH], size = 64 } = options
    this.spaces = spaces
    this.regions = spaces.map(({ start, ram }) => new RamRegion(start, ram))
    this.#features = mask(...features, F.VERSION_1, ...(packed ? [F.RING_PACKED] : []))
    this.#queues = queues
    this.#usedSpaces = options.usedSpaces ?? queues
    this.#isPacked = packed
    this.#size = size
    this.disk = new VirtioBlk(backing, { queues: queues.length, ...(packed && { withFeatures: ["RING_PACKED"] }), ...disk })
    const queueInterrupt = (index: number): void => {
      this.irqs.push(index)
      this.onInterrupt(index)
    }
    this.disk.virtio.attach({
      memory: this, transitional: false,
      signals: { queueInterrupt, configInterrupt: () => void this.irqs.push(-1), deviceReset: () => undefined },
    })
    this.start()
  }

  /** Resets the device, and drives it to DRIVER_OK with empty rings. */
  start(): void {
    const { virtio } = this.disk
    for (const status of [0, 1, 3]) virtio.writeStatus(status)
    virtio.setDriverFeatures(0, Number(this.#features & 0xffff_ffffn))
    virtio.setDriverFeatures(1, Number(this.#features >> 32n))
    virtio.writeStatus(0x0b)
    this.rings = this.#queues.map((_, index) => this.openQueue(index))
    virtio.writeStatus(UP)
  }

  /** Gives a queue that has been reset an empty ring. */
  openQueue(index: number): Ring {
    const space = this.spaces[this.#queues[index] ?? -1]
    const queue = this.disk.virtio.queue(index)
    const usedSpace = this.spaces[this.#usedSpaces[index] ?? -1]
    if (space === undefined || usedSpace === undefined || queue === undefined) throw new Error("there is no such space, or queue")
    // Queues share a space only for what the device writes: there each has a place of its own.
    const place = { desc: 0x40, avail: 0x1000, used: 0x1400 + 0x300 * index }
    const size = this.#size
    const ring = new (this.#isPacked ? PackedRing : Ring)(space, { size, place, index, usedVm: usedSpace }).clear()
    queue.setSize(size)
    queue.setArea("descriptorTable", space.start + place.desc)
    queue.setArea("availRing", space.start + place.avail)
    queue.setArea("usedRing", usedSpace.start + place.used)
    queue.enable()
    return ring
  }

  region(address: number): RamRegion | undefined {
    return this.regions.find(({ start, end }) => address >= start && address < end)
  }

  /** Makes `pieces` available in queue `queue`, and kicks. */
  run(queue: number, pieces: readonly Piece[]): void {
    const ring = this.rings[queue]
    if (ring === undefined) throw new Error(`there is no queue ${queue}`)
    ring.publish(ring.chain(pieces))
    this.disk.virtio.notify(queue)
  }
}
