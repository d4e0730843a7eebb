/**
 * The fuzzer of saved states: each round restores one that something is wrong with, into a machine like the one it was saved in. It is
 * refused in one line, with the device as after a reset, or the device goes on with it as with any driver: it works, or it needs a reset.
 * The host sees no other error, now or later; and after a reset an ordinary driver finds an ordinary disk.
 */
import { Machine } from "../../../src/vmm/machine.ts"
import { eio, FakeDisk, settled } from "../../harness/fake-disk.ts"
import { ManualClock } from "../../virtio/blk/throttling/manual-clock.ts"
import type { Rng } from "../../support/rng.ts"
import { HostileGetter, mutate } from "./mutations.ts"
import { type Shape, shapes, SIZE, type StateDisk } from "./shapes.ts"

const RAM = 1 << 20
const MUTATIONS = 3
/** Turns in which what goes on by itself comes to an end. */
const TURNS = 4
const MOST_ANSWERS = 100
/** Characters of a message. */
const MOST_TEXT = 500
const QUEUES = 2

/** A saved state, and the RAM that goes with it. */
interface Template {
  readonly shape: Shape
  readonly text: string
  readonly ram: Uint8Array
}

export class StateFuzzer {
  /** Rounds by what was done to the state, and by what came of it. */
  readonly counts = new Map<string, number>()
  /** The longest time that one call of the host, or what followed from it in one turn, held the thread. CPU time, milliseconds. */
  longestHold = 0
  readonly #rng: Rng
  readonly #clock = new ManualClock()
  readonly #templates: Template[] = []

  constructor(rng: Rng) {
    this.#rng = rng
  }

  /** Makes the states that rounds begin with. To be called first. */
  async prepare(): Promise<void> {
    for (const shape of shapes(this.#clock)) for (const isQuiet of [false, true]) this.#templates.push(await this.#template(shape, isQuiet))
  }

  /** @throws Error at the first surprise */
  async round(): Promise<void> {
    const rng = this.#rng
    const { shape, text, ram } = rng.pick(this.#templates)
    const state = JSON.parse(text) as Record<string, unknown>
    const kinds = mutate(state, rng.between(1, MUTATIONS), rng)
    for (const kind of kinds) this.#count(kind.replace(/ at .*/, ""))
    const late: unknown[] = []
    const hear = (error: unknown) => late.push(error)
    process.on("uncaughtException", hear)
    process.on("unhandledRejection", hear)
    try {
      await this.#restore(shape, ram, state)
      if (late.length > 0) throw new Error(`the host has seen ${String(late[0])}`, { cause: late[0] })
    } catch (error) {
      throw new Error(`${shape.name}; ${kinds.join(", ")}: ${String(error)}`, { cause: error })
    } finally {
      process.off("uncaughtException", hear)
      process.off("unhandledRejection", hear)
    }
  }

  async #restore(shape: Shape, ram: Uint8Array, state: unknown): Promise<void> {
    const vm = new Machine({ memory: ram.slice() })
    const fake = this.#disk()
    const disk = shape.attach(vm, shape.over(fake))
    const error = this.#refusal(disk, state)
    if (error === undefined) await this.#goOn(disk, fake)
    else this.#checkRefused(disk, error)
    this.#count(error === undefined ? disk.device.virtio.brokenBy === undefined ? "goes on" : "needs a reset" : "refused")
    await this.#useAnew(shape, vm, disk, fake)
  }

  #refusal({ transport }: StateDisk, state: unknown): unknown {
    try {
      this.#timed(() => transport.restoreState(state))
      return undefined
    } catch (error) {
      return error
    }
  }

  #checkRefused({ device }: StateDisk, error: unknown): void {
    if (error instanceof HostileGetter) return this.#count("a getter threw")
    const { message } = error as Error
    if (!(error instanceof Error) || !message.startsWith("saved state: ")) {
      throw new Error("it is refused without a reason", { cause: error })
    }
    if (message.length > MOST_TEXT || message.includes("\n")) {
      throw new Error(`it is refused in more than a line: ${message.slice(0, MOST_TEXT)}`)
    }
    const { virtio } = device
    const isReset = virtio.status === 0 && virtio.queues.every(({ enabled, hasSaved }) => !enabled && !hasSaved)
    if (!isReset) throw new Error(`it is refused, and the device is not as after a reset: ${message}`)
  }

  /** The machine runs: the guest kicks and reads, the disk answers, well or with errors. */
  async #goOn({ device, transport }: StateDisk, fake: FakeDisk): Promise<void> {
    this.#timed(() => device.resume())
    for (let turn = 0; turn < TURNS; turn++) {
      await this.#settled()
      for (let queue = 0; queue < QUEUES; queue++) this.#timed(() => device.virtio.notify(queue))
      this.#clock.runTo(this.#clock.time + 1000)
      for (let answers = 0; fake.waiting.length > 0 && answers < MOST_ANSWERS; answers++) {
        const waiting = this.#rng.pick(fake.waiting)
        if (this.#rng.chance(0.1)) waiting.fail(eio())
        else waiting.finish()
        if (this.#rng.chance(0.2)) await this.#settled()
      }
      if (turn === 1) this.#saveAgain(device, transport)
    }
  }

  /** What is saved of such a device is a state that it takes. */
  #saveAgain(device: StateDisk["device"], transport: StateDisk["transport"]): void {
    const again = JSON.parse(JSON.stringify(transport.saveState({ inFlight: "again" }))) as unknown
    this.#timed(() => transport.restoreState(again))
    this.#timed(() => device.resume())
  }

  async #useAnew(shape: Shape, vm: Machine, disk: StateDisk, fake: FakeDisk): Promise<void> {
    fake.waits = () => false
    for (const waiting of fake.waiting.splice(0)) waiting.finish()
    await this.#settled()
    // A state may have filled it for years.
    disk.device.setThrottle(undefined)
    vm.reset()
    await this.#settled()
    const driver = await shape.open(vm)
    const data = this.#rng.bytes(1024)
    await this.#answered(driver.write(8, data))
    if (Buffer.compare(await this.#answered(driver.read(8, 2)), data) !== 0) {
      throw new Error("an ordinary driver does not read what it wrote")
    }
    await driver.close()
    if (disk.device.virtio.brokenBy !== undefined) throw new Error(`an ordinary driver is told: ${disk.device.virtio.brokenBy.message}`)
  }

  async #settled(): Promise<void> {
    const start = process.cpuUsage()
    await settled()
    this.#held(start)
  }

  #timed(act: () => void): void {
    const start = process.cpuUsage()
    try {
      act()
    } finally {
      this.#held(start)
    }
  }

  #held(start: NodeJS.CpuUsage): void {
    const { user, system } = process.cpuUsage(start)
    this.longestHold = Math.max(this.longestHold, (user + system) / 1000)
  }

  #disk(): FakeDisk {
    const disk = new FakeDisk({ content: new Uint8Array(SIZE) })
    disk.waits = () => true
    return disk
  }

  /** A state in the middle of requests; or one of a quiet device that has some behind it. */
  async #template(shape: Shape, isQuiet: boolean): Promise<Template> {
    const vm = new Machine({ ramSize: RAM })
    const fake = this.#disk()
    const { device, transport } = shape.attach(vm, shape.over(fake))
    fake.waits = () => false
    const driver = await shape.open(vm)
    for (let round = 0; round < 20; round++) await this.#answered(driver.write(round, new Uint8Array(512)))
    fake.waits = () => !isQuiet
    const sent = Array.from({ length: 6 }, (_, index) => {
      const queue = index % QUEUES
      return index % 3 === 0 ? driver.read(8 * index, 2, { queue }) : driver.write(32 + index, new Uint8Array(1024).fill(index), { queue })
    })
    await settled()
    // The last ones are answered first: in order they are held.
    for (const waiting of fake.waiting.slice(-3)) waiting.finish()
    await settled()
    const text = JSON.stringify(transport.saveState({ inFlight: "again" }))
    const ram = vm.ram.slice()
    void device.pause()
    for (const request of sent) request.catch(() => undefined)
    vm.reset()
    for (const waiting of fake.waiting.splice(0)) waiting.finish()
    await driver.close().catch(() => undefined)
    return { shape, text, ram }
  }

  /** Time passes where a throttle has to let a request go. @throws Error when the device does not answer it */
  async #answered<T>(request: Promise<T>): Promise<T> {
    let isAnswered = false
    request.finally(() => (isAnswered = true)).catch(() => undefined)
    for (let turn = 0; turn < MOST_ANSWERS; turn++) {
      await settled()
      if (isAnswered) return request
      this.#clock.runTo(this.#clock.time + 1000)
    }
    throw new Error("an ordinary driver's request is not answered")
  }

  #count(name: string): void {
    this.counts.set(name, (this.counts.get(name) ?? 0) + 1)
  }
}
