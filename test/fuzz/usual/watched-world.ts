/** WatchedWorld: some disks with sampled latencies and throttles, which they share or have for themselves, and their guests. */
import { BackingError, type VirtioBacking } from "../../../src/backing/backing.ts"
import { Throttle, type ThrottleLimits } from "../../../src/index.ts"
import { growingMemory } from "../../harness/growing-memory.ts"
import { RingGuest } from "../../harness/guest.ts"
import type { Request } from "../../harness/requests.ts"
import { F, UP } from "../../harness/words.ts"
import { Rng } from "../../support/rng.ts"
import { ManualClock } from "../../virtio/blk/throttling/manual-clock.ts"
import type { Shape } from "./kick-shapes.ts"

export const SECTORS = 16
export const QUEUES = 2
const RAM = 1 << 16
const RING = 16
/** Most requests of a queue at a time: their descriptors fit into its ring. */
const MOST = 3

/** What a disk is like, in each world. */
export interface DiskPlan {
  readonly latency: "off" | "sampled" | "all"
  /** Whether the disk takes its requests without views of RAM. */
  readonly isDirect: boolean
}

export interface WorldPlan {
  readonly seed: number
  readonly packed: boolean
  readonly eventIdx: boolean
  readonly limits: ThrottleLimits
  readonly disks: readonly DiskPlan[]
}

/** The fastest way in which kicks are served: by `UsualKick`, as rows, or by requests that are objects. */
export type Way = "short" | "rows" | "general"

/** Anything that happens in a world. */
export type Act = (world: WatchedWorld) => void

export class WatchedWorld {
  readonly clock = new ManualClock()
  /** The throttle that the disks share at first. */
  readonly group: Throttle
  readonly disks: readonly WatchedDisk[]
  /** Calls of the disks, interrupts and levels of throttles, in their order. */
  readonly log: string[] = []
  /** Milliseconds of the host. Each call takes one, and each interrupt. */
  now = 1000
  /** Called inside of the next call of a disk. */
  onCall: Act | undefined
  fails = false
  readonly way: Way
  readonly #rng: Rng

  constructor(plan: WorldPlan, way: Way) {
    this.way = way
    this.#rng = new Rng(plan.seed)
    this.group = new Throttle(plan.limits, { clock: this.clock })
    this.disks = plan.disks.map((disk, index) => new WatchedDisk(this, plan, disk, index))
  }

  random(): number {
    return this.#rng.below(1000) / 1000
  }

  disk(index: number): WatchedDisk {
    const disk = this.disks[index]
    if (disk === undefined) throw new Error(`there is no disk ${index}`)
    return disk
  }

  /** Notes the levels of all throttles, and how many requests wait. */
  noteLevels(): void {
    for (const { throttle } of [{ throttle: this.group }, ...this.disks.map(({ guest }) => guest.disk.device)]) {
      this.log.push(JSON.stringify([throttle?.saveState(), throttle?.waiting]))
    }
  }

  call(disk: WatchedDisk, name: string, offset: number, length: number, work: (part: Uint8Array) => void): void {
    this.log.push(`${name} ${disk.index} ${offset} ${length}`)
    this.now++
    const { onCall, fails } = this
    this.onCall = undefined
    this.fails = false
    onCall?.(this)
    if (fails) throw new BackingError("io", "it fails")
    work(disk.content.subarray(offset, offset + length))
  }

  /** Ends what the step has begun, so that the next one finds disks at work. */
  tidy(): void {
    this.onCall = undefined
    this.fails = false
    this.log.length = 0
    for (const disk of this.disks) disk.tidy()
  }

  /** RAM of the guests, and what their disks hold. */
  get bytes(): readonly Uint8Array[] {
    return this.disks.flatMap(({ guest, content }) => [guest.machine.ram, content])
  }

  /** All else that can be seen of it, without changing anything. */
  get rest(): string {
    return JSON.stringify([this.log, this.group.waiting, this.clock.alarms, this.disks.map(({ guest: { status, disk: { device } } }) => {
      const { statistics: { read, write, flush, merged }, brokenBy, throttle, virtio: { isIdle } } = device
      return [read, write, flush, merged, brokenBy?.message, throttle?.waiting, isIdle, status]
    })])
  }
}

export class WatchedDisk {
  readonly content = new Uint8Array(512 * SECTORS)
  readonly guest: RingGuest
  readonly index: number
  readonly #world: WatchedWorld
  /** Requests of each queue that have not come back. */
  readonly #sent = new Array<number>(QUEUES).fill(0)
  /** Where the buffers of requests begin. */
  #buffers: number

  constructor(world: WatchedWorld, { packed, eventIdx }: WorldPlan, { latency, isDirect }: DiskPlan, index: number) {
    this.#world = world
    this.index = index
    const features = [F.INDIRECT_DESC, F.FLUSH, F.CONFIG_WCE, ...(eventIdx ? [F.EVENT_IDX] : [])]
    const disk = { queues: QUEUES, latency, throttle: world.group, ...(packed && { withFeatures: ["RING_PACKED"] as const }) }
    const machine = { memory: growingMemory(RAM) }
    this.guest = new RingGuest({ backing: this.#backing(isDirect), features, ringSize: RING, queues: QUEUES, machine, disk, packed })
    this.#buffers = this.guest.top
    this.guest.machine.interrupts.subscribe((change) => {
      world.log.push(JSON.stringify([index, change]))
      world.now++
    })
  }

  #backing(isDirect: boolean): VirtioBacking {
    const world = this.#world
    const pread = (buffer: Uint8Array, offset: number): void =>
      world.call(this, "read", offset, buffer.length, (part) => buffer.set(part))
    const pwrite = (buffer: Uint8Array, offset: number): void =>
      world.call(this, "write", offset, buffer.length, (part) => part.set(buffer))
    return {
      size: this.content.length, readOnly: false, close() {}, pread, pwrite, flush: () => world.call(this, "flush", 0, 0, () => {}),
      ...(isDirect && {
        preadInto: (ram, start, length, offset) => pread(ram.subarray(start, start + length), offset),
        pwriteFrom: (ram, start, length, offset) => pwrite(ram.subarray(start, start + length), offset),
      } satisfies Partial<VirtioBacking>),
    }
  }

  /** Makes a request available in a queue, if there is room for it. */
  send(queue: number, request: Request, shape: Shape, indirect: boolean): void {
    const { guest } = this
    this.#takeUsed()
    const [ring, sent] = [guest.rings[queue], this.#sent[queue] ?? MOST]
    if (ring === undefined || sent >= MOST || guest.top > RAM - 0x1000) return
    const { pieces } = guest.place(request)
    guest.publish([guest.chain(shape(pieces), { indirect }, ring)], ring)
    this.#sent[queue] = sent + 1
  }

  /** Kicks a queue. What that throws is noted. */
  kick(queue: number): void {
    const { guest } = this
    const [ring, virtqueue] = [guest.rings[queue], guest.disk.device.virtio.queues[queue]]
    if (ring === undefined || virtqueue === undefined) return
    if (this.#world.way !== "short") virtqueue.shortcut = undefined
    try {
      guest.kick(ring)
    } catch (error) {
      this.#world.log.push(String(error))
    }
  }

  tidy(): void {
    const { guest } = this
    guest.disk.device.resume()
    this.#takeUsed()
    if (this.#sent.every((sent) => sent === 0)) guest.top = this.#buffers
    if (guest.status === UP && guest.top <= RAM - 0x4000) return
    guest.start()
    this.#buffers = guest.top
    this.#sent.fill(0)
  }

  #takeUsed(): void {
    for (const [queue, ring] of this.guest.rings.entries()) this.#sent[queue] = (this.#sent[queue] ?? 0) - this.guest.takeUsed(ring).length
  }
}
