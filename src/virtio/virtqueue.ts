/** Virtqueue: one queue of a device: its registers, and its ring once it is in use. Dropping the ring ends all its requests. */
import type { GuestMemory, Movable } from "./guest-memory.ts"
import type { Negotiation } from "./negotiation.ts"
import { InOrderRing } from "./queue/in-order-ring.ts"
import { PackedQueue } from "./queue/packed-queue.ts"
import type { QueueAreas, Ring, RingFeatures, TakenChain } from "./queue/ring.ts"
import { SplitQueue } from "./queue/split-queue.ts"
import { VirtqueueError } from "./queue/virtqueue-error.ts"
import { VIRTIO_F } from "./spec.ts"
import { addressWords, savedAddress, type SavedAddress, type SavedQueue, type SavedRing } from "./state.ts"
import type { QueueArea, QueueRegisters } from "./transport.ts"
import type { Turn } from "./turn.ts"
import type { Shortcut, Task } from "./work.ts"

/** The queue address registers as dwords, in the order of [VIRTIO] 4.1.4.3: the low and the high half of each. */
const AREA_WORD: Readonly<Record<QueueArea, number>> = { descriptorTable: 0, availRing: 2, usedRing: 4 }
const AREA_WORDS = 6

/** The addresses of a queue that was never programmed. Shared, because a device may have thousands of unused queues. */
const NO_AREAS = new Uint32Array(AREA_WORDS)

/** Serves queues: their device. See `VirtioDevice`. */
export interface QueueServer {
  readonly negotiation: Pick<Negotiation, "isNegotiated">
  readonly memory: GuestMemory
  readonly work: { readonly open: boolean }
  isLive(queue: Virtqueue): boolean
  /** Takes requests from `queue` until the turn ends. Returns true if there is more to do. */
  serve(queue: Virtqueue, turn: Turn): boolean
  breakDown(queue: Virtqueue, ring: Ring | undefined, error: unknown): void
}

export class Virtqueue implements Task, QueueAreas, QueueRegisters {
  readonly index: number = 0
  /** Maximum, and initial, number of descriptors. */
  readonly maxSize: number = 0
  /** Number of descriptors. */
  size = 0
  enabled = false
  /** Enabled through the legacy page number register: then the queue may be used before DRIVER_OK ([VIRTIO] 3.1.2). */
  legacy = false
  /** The present ring; a reset drops it. Requests of any other ring must not touch the guest. */
  ring: Ring | undefined
  /** `VirtioDevice.changes` when a check last found that the queue may be served. */
  liveAt = -1
  /** Serves kicks with one usual request on the present ring. */
  shortcut: Shortcut | undefined
  #areas = NO_AREAS
  /** The restored position of the ring. */
  #saved: SavedRing | undefined
  /** Counts resets and restored states. */
  #lives = 0
  readonly #server: QueueServer

  constructor(index: number, maxSize: number, server: QueueServer) {
    this.index = index
    this.maxSize = maxSize
    this.size = maxSize
    this.#server = server
  }

  get descriptorTable(): number {
    return this.#area(AREA_WORD.descriptorTable)
  }

  get availRing(): number {
    return this.#area(AREA_WORD.availRing)
  }

  get usedRing(): number {
    return this.#area(AREA_WORD.usedRing)
  }

  areaWord(word: number): number {
    return this.#areas[word] ?? 0
  }

  setSize(size: number): void {
    if (this.enabled || size < 1 || size > this.maxSize) return
    if ((size & (size - 1)) !== 0 && !this.#isPacked) return
    this.size = size
  }

  setAreaWord(word: number, value: number): void {
    if (this.enabled) return
    if (this.#areas === NO_AREAS) this.#areas = new Uint32Array(AREA_WORDS)
    this.#areas[word] = value
  }

  setArea(area: QueueArea, address: number): void {
    this.setAreaWord(AREA_WORD[area], address % 2 ** 32)
    this.setAreaWord(AREA_WORD[area] + 1, Math.floor(address / 2 ** 32))
  }

  enable(options: { readonly legacy: boolean } = { legacy: false }): void {
    if (this.enabled) return
    this.enabled = true
    this.legacy = options.legacy
  }

  /** Serves the queue. */
  run(turn: Turn): boolean {
    return this.#server.serve(this, turn)
  }

  /**
   * Makes the ring at the first use of the queue. Undefined if the queue may not be served any more: looking for RAM calls the embedder,
   * who may do anything. @throws VirtqueueError when it is not in RAM
   */
  open(memory: GuestMemory, features: RingFeatures): Ring | undefined {
    const { size, descriptorTable, availRing, usedRing } = this
    const lives = this.#lives
    const areas = { size, descriptorTable, availRing, usedRing }
    const saved = this.#saved
    let plain: Ring | undefined
    try {
      plain = features.packed ? new PackedQueue(memory, areas, features, saved) : new SplitQueue(memory, areas, features, saved)
    } catch (error) {
      // The new life has nothing to do with an error of the old one.
      if (this.#lives === lives || !(error instanceof VirtqueueError)) throw error
    }
    if (plain === undefined || this.#lives !== lives || !this.#server.isLive(this)) return undefined
    const ring = features.inOrder ? new InOrderRing(plain, features, saved?.held) : plain
    this.ring = ring
    ring.initialiseFlags()
    return ring
  }

  // Memory may have been replaced, and finding things in it calls the embedder, who may do anything: reset the queue, switch bus mastering
  // off. So each of these first finds `ring`, and then says whether it is still the queue's ring. No other code refreshes a ring.

  /** Whether chains may be taken from `ring`. @throws VirtqueueError when it is not in RAM any more */
  mayTake(ring: Ring): boolean {
    return this.#has(ring) && this.#server.isLive(this)
  }

  /** Whether guest memory may be touched for `requests` of `ring`. @throws VirtqueueError when they are not in RAM any more */
  mayTouch(ring: Ring, requests: Movable): boolean {
    const { memory, work } = this.#server
    if (requests.generation !== memory.generation && work.open && this.#has(ring)) requests.refresh(memory)
    return this.ring === ring && work.open
  }

  /** The ring. Undefined if there is none, or if it is not in RAM any more: then the device breaks down. */
  findRing(): Ring | undefined {
    const { ring } = this
    try {
      return ring !== undefined && this.#has(ring) ? ring : undefined
    } catch (error) {
      this.#server.breakDown(this, ring, error)
      return undefined
    }
  }

  #has(ring: Ring): boolean {
    if (this.ring !== ring) return false
    ring.refresh()
    return this.ring === ring
  }

  /** Back to the initial state, at once. */
  reset(): void {
    this.size = this.maxSize
    this.enabled = false
    this.legacy = false
    this.liveAt = -1
    this.ring = undefined
    this.shortcut = undefined
    this.#areas = NO_AREAS
    this.#saved = undefined
    this.#lives++
  }

  /** `inFlight`: the ring's requests in flight, which are taken again after `restore`. */
  save(inFlight: readonly TakenChain[]): SavedQueue {
    const { size, enabled, legacy, ring } = this
    const state = ring?.save(inFlight) ?? this.#saved ?? { position: 0, heads: [] }
    const area = (name: QueueArea): SavedAddress => savedAddress(this.areaWord(AREA_WORD[name]), this.areaWord(AREA_WORD[name] + 1))
    const areas = { descriptorTable: area("descriptorTable"), availRing: area("availRing"), usedRing: area("usedRing") }
    return { size, enabled, legacy, ...areas, ...state }
  }

  restore(saved: SavedQueue): void {
    this.#lives++
    this.size = saved.size
    for (const name of ["descriptorTable", "availRing", "usedRing"] as const) {
      const [low, high] = addressWords(saved[name])
      this.setAreaWord(AREA_WORD[name], low)
      this.setAreaWord(AREA_WORD[name] + 1, high)
    }
    this.enabled = saved.enabled
    this.legacy = saved.legacy
    const { position, heads, chains, unpublished, held } = saved
    this.#saved = {
      position, heads, ...(chains !== undefined && { chains }), ...(unpublished !== undefined && { unpublished }),
      ...(held !== undefined && { held }),
    }
  }

  /** Whether chains that were in flight when the state was saved wait to be taken again. */
  get hasSaved(): boolean {
    if (this.ring !== undefined) return this.ring.hasSaved
    return this.enabled && this.#saved !== undefined && this.#saved.heads.length + (this.#saved.chains?.length ?? 0) > 0
  }

  get #isPacked(): boolean {
    return this.#server.negotiation.isNegotiated(VIRTIO_F.RING_PACKED)
  }

  /**
   * Replaces the ring by a new one at the same position, which takes the requests in flight again. `anew`: repeats also requests that are
   * done and wait for earlier ones (IN_ORDER).
   */
  takeAgain(inFlight: readonly TakenChain[], { anew }: { readonly anew: boolean }): void {
    const { held = [], ...saved } = this.save(inFlight)
    this.restore(anew || held.length === 0 ? saved : { ...saved, held })
    this.ring = undefined
    this.shortcut = undefined
  }

  /** An address from its two halves. It loses low bits above 2^53, which is far outside of all RAM. */
  #area(word: number): number {
    return this.areaWord(word) + this.areaWord(word + 1) * 2 ** 32
  }
}
