/**
 * State saved at every point of a run of requests, and restored into a new machine with a new disk: the run goes on to the same end. A
 * point is before each request and before each answer of the disk, which answers late, in any order, and with requests in flight.
 */
import { describe, expect, it } from "vitest"
import { BlockDriver, findBlockDevices } from "../../src/vmm/driver/block/driver.ts"
import type { BlockDriverOptions } from "../../src/vmm/driver/block/options.ts"
import { MmioDevice } from "../../src/vmm/driver/virtio/mmio/mmio-device.ts"
import type { AttachDiskOptions } from "../../src/vmm/machine.ts"
import type { AttachMmioDiskOptions } from "../../src/vmm/mmio-disks.ts"
import { FakeDisk, settled } from "../harness/fake-disk.ts"
import { type Attach, MovingMachine } from "../harness/moving-machine.ts"
import { Rng, seedFromEnvironment } from "../support/rng.ts"

const SECTORS = 128
const REQUESTS = 12
/** More steps than a run takes: what is left then is answered without further points. */
const MOST_STEPS = 400

interface Transport {
  readonly name: string
  readonly attach: Attach
  readonly open: (vm: MovingMachine) => Parameters<typeof BlockDriver.open>[0]
  readonly driver: BlockDriverOptions
}

function pci(name: string, disk: AttachDiskOptions, driver: BlockDriverOptions): Transport {
  return {
    name, driver,
    attach: (vm, backing) => {
      const { device, function: transport } = vm.attachDisk(backing, { slot: 4, queues: 2, queueSize: 16, ...disk })
      return { device, transport }
    },
    open: (vm) => {
      const [found] = findBlockDevices(vm)
      if (found === undefined) throw new Error("no disk on the bus")
      return found
    },
  }
}

function mmio(name: string, disk: AttachMmioDiskOptions, driver: BlockDriverOptions = {}): Transport {
  return {
    name, driver,
    attach: (vm, backing) => vm.attachMmioDisk(backing, { line: 10, queues: 2, queueSize: 16, ...disk }),
    open: (vm) => new MmioDevice(vm, { address: 0xfeb0_0000, line: 10 }),
  }
}

const PACKED = { withFeatures: ["RING_PACKED"] } as const

const TRANSPORTS: readonly Transport[] = [
  pci("PCI, MSI-X", {}, { transport: "modern" }),
  pci("PCI, INTx, without EVENT_IDX", { vectors: 0 }, { features: { refuse: ["EVENT_IDX"] } }),
  pci("PCI, legacy, direct", {}, { transport: "legacy", features: { refuse: ["INDIRECT_DESC"] } }),
  pci("PCI, packed", PACKED, {}),
  pci("PCI, packed, direct, without EVENT_IDX", PACKED, { features: { refuse: ["INDIRECT_DESC", "EVENT_IDX"] } }),
  pci("PCI, packed, in order", { withFeatures: ["RING_PACKED", "IN_ORDER"] }, {}),
  pci("PCI, in order, direct", { withFeatures: ["IN_ORDER"] }, { features: { refuse: ["INDIRECT_DESC"] } }),
  mmio("MMIO, packed", PACKED), mmio("MMIO, version 2", {}),
  mmio("MMIO, version 1, big-endian", { version: 1, guestEndian: "big" }, { guestEndian: "big" }),
]

type Mode = "again" | "drained"

/** A run of requests whose machine moves at the points that `moves` names. */
class Run {
  points = 0
  moved = 0
  readonly #rng: Rng
  readonly #mode: Mode
  readonly #moves: (point: number) => boolean
  readonly #vm: MovingMachine
  readonly #transport: Transport
  readonly #model: Uint8Array
  readonly #failures: string[] = []
  #disk: FakeDisk
  #open = 0

  constructor(transport: Transport, seed: number, mode: Mode, moves: (point: number) => boolean) {
    this.#rng = new Rng(seed)
    this.#mode = mode
    this.#moves = moves
    this.#transport = transport
    this.#model = this.#rng.bytes(512 * SECTORS)
    this.#disk = this.#diskOver(this.#model.slice())
    this.#vm = new MovingMachine(1 << 20, transport.attach, this.#disk)
  }

  async toTheEnd(): Promise<void> {
    const driver = await BlockDriver.open(this.#transport.open(this.#vm), { queues: 2, ...this.#transport.driver })
    expect((driver.virtio.features & (1n << 34n)) !== 0n).toBe(this.#transport.name.includes("packed"))
    for (let sent = 0, step = 0; step < MOST_STEPS && (sent < REQUESTS || this.#open > 0); step++) {
      if (this.#moves(this.points++)) await this.#move()
      if (sent < REQUESTS && this.#open < 6 && this.#rng.chance(0.5)) this.#send(driver, sent++)
      else if (this.#disk.waiting.length > 0) this.#rng.pick(this.#disk.waiting).finish()
      await settled()
    }
    while (this.#open > 0) {
      this.#disk.waiting[0]?.finish()
      await settled()
    }
    expect(this.#failures).toEqual([])
    expect(Buffer.compare(this.#disk.cache, this.#model)).toBe(0)
    this.#disk.waits = () => false
    expect(Buffer.compare(await driver.read(0, SECTORS), this.#model)).toBe(0)
    await driver.close()
  }

  /** Each request has sectors of its own: requests in flight have no order. */
  #send(driver: BlockDriver, number: number): void {
    const first = number * 8
    const count = this.#rng.between(1, 7)
    const options = { queue: this.#rng.below(2) }
    const area = this.#model.subarray(512 * first, 512 * (first + count))
    const done = this.#rng.pick<() => Promise<unknown>>([
      () => {
        const before = area.slice()
        return driver.read(first, count, options).then((data) => this.#expect(number, Buffer.compare(data, before) === 0))
      },
      () => {
        area.set(this.#rng.bytes(area.length))
        return driver.write(first, area.slice(), options)
      },
      () => {
        area.fill(0)
        return driver.writeZeroes([{ sector: first, sectors: count }], options)
      },
      () => driver.flush(options),
    ])
    this.#open++
    done().catch((error: unknown) => this.#failures.push(`request ${number}: ${String(error)}`)).finally(() => this.#open--)
  }

  #expect(number: number, isRight: boolean): void {
    if (!isRight) this.#failures.push(`request ${number} read other data`)
  }

  async #move(): Promise<void> {
    this.moved++
    const old = this.#disk
    if (this.#mode === "drained") {
      const idle = this.#vm.disk.device.pause()
      // More calls may follow an answer.
      for (let isIdle = false; !isIdle; await settled()) {
        void idle.then(() => (isIdle = true))
        for (const waiting of old.waiting.splice(0)) waiting.finish()
        await settled()
      }
    }
    this.#disk = this.#diskOver(old.cache.slice())
    this.#vm.move(this.#disk, this.#mode === "again" ? { inFlight: "again" } : undefined)
    // The old machine's disk answers all the same: it reaches nobody any more.
    for (const waiting of old.waiting.splice(0)) waiting.finish()
    await settled()
  }

  #diskOver(content: Uint8Array): FakeDisk {
    const disk = new FakeDisk({ content })
    disk.waits = () => true
    return disk
  }
}

describe.each(TRANSPORTS)("a machine with a disk over $name", (transport) => {
  it.each<Mode>([
    "again", "drained",
  ])("that is saved and restored at any point comes to the same end, requests in flight %s", async (mode) => {
    const seed = seedFromEnvironment(20261126)
    const whole = new Run(transport, seed, mode, () => false)
    await whole.toTheEnd()
    expect(whole.points).toBeGreaterThan(REQUESTS)
    for (let at = 0; at < whole.points; at++) {
      const run = new Run(transport, seed, mode, (point) => point === at)
      await run.toTheEnd().catch((error: unknown) => {
        throw new Error(`saved at point ${at} of seed ${seed}: ${String(error)}`, { cause: error })
      })
    }
    const always = new Run(transport, seed, mode, () => true)
    await always.toTheEnd()
    expect(always.moved).toBeGreaterThan(REQUESTS)
  })
})
