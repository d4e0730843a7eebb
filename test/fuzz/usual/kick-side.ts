/** One of the guests of KickFuzzer, its device and its disk. */
import { BackingError, type VirtioBacking } from "../../../src/backing/backing.ts"
import type { AttachDiskOptions } from "../../../src/vmm/machine.ts"
import { type GrowingMemory, growingMemory } from "../../harness/growing-memory.ts"
import { RingGuest } from "../../harness/guest.ts"
import { PackedRing } from "../../harness/packed-ring.ts"
import type { Request } from "../../harness/requests.ts"
import { F } from "../../harness/words.ts"
import type { Shape } from "./kick-shapes.ts"

export const SECTORS = 16
export const RAM = 1 << 16
/** Descriptors of a split ring. */
export const RING = 16

/** What the guests of a round have in common. */
export interface Life {
  readonly eventIdx: boolean
  readonly inOrder: boolean
  /** Where the indices of a split ring begin. */
  readonly position: number
  readonly packed: boolean
  readonly ringSize: number
  /** RAM is in a SharedArrayBuffer. */
  readonly shared: boolean
  /** The disks have vectored calls. */
  readonly vectored: boolean
}

/** How the kicks of a guest are served. */
type Way = "read by itself" | "as a row" | "long"

/** A step, of any guest. */
export type Step = (side: Side) => void | Promise<void>

/** A guest and its disk. */
export class Side {
  readonly content = new Uint8Array(512 * SECTORS)
  readonly guest: RingGuest
  readonly memory: GrowingMemory
  /** Calls of the disk, and interrupts, in their order. */
  readonly log: string[] = []
  /** Called inside of the next call of the disk, before and behind its work, or the next interrupt. */
  onCall: Step | undefined
  atEndOfCall: Step | undefined
  onInterrupt: Step | undefined
  fails = false
  readonly #way: Way
  readonly #isVectored: boolean

  constructor(way: Way, { eventIdx, inOrder, position, packed, ringSize, shared, vectored }: Life) {
    this.#way = way
    this.#isVectored = vectored
    const features = [F.INDIRECT_DESC, F.FLUSH, F.CONFIG_WCE, F.IN_ORDER, ...(eventIdx ? [F.EVENT_IDX] : [])]
    this.memory = growingMemory(RAM, { shared })
    const machine = { memory: this.memory }
    const names = (["IN_ORDER", "RING_PACKED"] as const).filter((_, at) => [inOrder, packed][at])
    const disk: AttachDiskOptions = { withFeatures: names }
    this.guest = new RingGuest({ backing: this.backing(), features, ringSize, machine, disk, packed })
    if (!packed) this.#beginAt(position)
    this.guest.machine.interrupts.subscribe((change) => {
      this.log.push(JSON.stringify(change))
      const { onInterrupt } = this
      this.onInterrupt = undefined
      void onInterrupt?.(this)
    })
  }

  save(): void {
    this.log.push(JSON.stringify(this.guest.disk.device.virtio.saveState({ inFlight: "again" })))
  }

  /** The ring has come so far already. */
  #beginAt(position: number): void {
    const { ring, data, disk: { device } } = this.guest
    data.setUint16(ring.avail + 2, position, true)
    data.setUint16(ring.used + 2, position, true)
    ring.lastUsed = position
    const state = device.virtio.saveState()
    device.virtio.restoreState({ ...state, queues: state.queues.map((queue) => ({ ...queue, position })) })
    device.resume()
  }

  backing(): VirtioBacking {
    const call = (name: string, offset: number, buffer: Uint8Array, work: (part: Uint8Array) => void): void => {
      this.log.push(`${name} ${offset} ${buffer.length}`)
      const { onCall, fails } = this
      this.onCall = undefined
      this.fails = false
      void onCall?.(this)
      if (fails) throw new BackingError("io", "it fails")
      work(this.content.subarray(offset, offset + buffer.length))
      const { atEndOfCall } = this
      this.atEndOfCall = undefined
      void atEndOfCall?.(this)
    }
    const pread = (buffer: Uint8Array, offset: number): void => call("read", offset, buffer, (part) => buffer.set(part))
    const pwrite = (buffer: Uint8Array, offset: number): void => call("write", offset, buffer, (part) => part.set(buffer))
    const vectored = (name: string, buffers: readonly Uint8Array[], offset: number): void => {
      const joined = Buffer.concat(buffers)
      call(name, offset, joined, (part) => {
        let done = 0
        for (const buffer of buffers) {
          const piece = part.subarray(done, (done += buffer.length))
          if (name === "read") buffer.set(piece)
          else piece.set(buffer)
        }
      })
    }
    return {
      size: this.content.length, readOnly: false, close() {}, pread, pwrite, flush: () => call("flush", 0, new Uint8Array(0), () => {}),
      ...(this.#isVectored && {
        preadv: (buffers, offset) => vectored("read", buffers, offset),
        pwritev: (buffers, offset) => vectored("write", buffers, offset),
      } satisfies Partial<VirtioBacking>),
      ...(this.#way === "read by itself" && {
        preadInto: (ram, start, length, offset) => pread(ram.subarray(start, start + length), offset),
        pwriteFrom: (ram, start, length, offset) => pwrite(ram.subarray(start, start + length), offset),
      } satisfies Partial<VirtioBacking>),
    }
  }

  send(request: Request, shape: Shape, indirect: boolean): void {
    const { guest } = this
    const { pieces } = guest.place(request)
    guest.publish([guest.chain(shape(pieces), { indirect })])
  }

  /** A kick, which throws what an interrupt handler, or a bug of the disk's, throws. */
  kick(): void {
    const [queue] = this.guest.disk.device.virtio.queues
    if (this.#way === "long" && queue !== undefined) queue.shortcut = undefined
    try {
      this.guest.kick()
    } catch (error) {
      this.log.push(String(error))
    }
  }

  /** All that can be seen of it. */
  state(what: "all" | "nothing of avail_event"): { readonly ram: Buffer; readonly disk: Buffer; readonly rest: unknown } {
    const { machine, disk: { device }, status, ring } = this.guest
    const { statistics, brokenBy, virtio } = device
    const ram = Buffer.from(machine.ram)
    const event = ring instanceof PackedRing ? ring.used : ring.used + 4 + 8 * ring.size
    if (what !== "all") ram.fill(0, event, event + 2)
    const rest = { log: this.log, statistics, broken: brokenBy?.message, status, idle: virtio.isIdle }
    return { ram, disk: Buffer.from(this.content), rest }
  }
}
