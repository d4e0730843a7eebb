/** The image under a machine's disk: a guest's driver, a mirror that switches over, and what else the device does meanwhile. */
import type { VirtioBacking } from "../../../src/backing/backing.ts"
import { mirrorDisk } from "../../../src/backing/operations/mirror/mirror.ts"
import type { PaceClock } from "../../../src/backing/operations/pace.ts"
import { BlockDriver, findBlockDevices } from "../../../src/vmm/driver/block/driver.ts"
import { BlockRequestError } from "../../../src/vmm/driver/errors.ts"
import { Machine } from "../../../src/vmm/machine.ts"
import { doLater } from "./actions.ts"
import type { FlatModel } from "../../support/flat-model.ts"
import type { Rng } from "../../support/rng.ts"
import { addTarget } from "./draw-world.ts"
import { applySnapshot, resize } from "./host-actions.ts"
import type { VirtioBlk } from "../../../src/virtio/blk/device.ts"
import type { Run } from "./run.ts"
import { contentOf, type Opened } from "./world.ts"

const SECTOR = 512
const MOST_REQUESTS = 60
const MOST_TRIES = 4

/** Bytes a second. */
const RATE = 8 << 20

/** While somebody sleeps the guest goes on. */
class GuestClock implements PaceClock {
  #time = 0

  now(): number {
    return this.#time
  }

  async sleep(ms: number): Promise<void> {
    this.#time += ms
    await new Promise((resolve) => setImmediate(resolve))
  }
}

/** Mirrors the disk of a guest that writes to a new image of any kind. The run goes on there, or, after errors, where it was. */
export async function mirror(run: Run): Promise<void> {
  const { rng, world } = run
  const vm = new Machine({ ramSize: 4 << 20 })
  const disk = !run.opened.isLate && rng.chance(0.5) ? writingLater(run.guest, rng) : run.guest
  const { device, slot } = vm.attachDisk(disk)
  const [pci] = findBlockDevices(vm)
  if (pci === undefined) throw new Error("no disk")
  const driver = await BlockDriver.open(pci)
  for (let tries = 0; tries < MOST_TRIES; tries++) {
    const name = addTarget(rng, world, run.expected.disk.size)
    const target = world.openNow(name, { writable: [name] })
    run.note(`mirror to ${name}`)
    const under: UnderWay = { isWay: true, before: undefined }
    if (run.hasFaults) run.arm({ files: target.written })
    const signal = { aborted: false, reason: new Error("enough") }
    let steps = rng.chance(0.2) ? rng.between(1, 5) : Infinity
    const progress = (): void => void (signal.aborted = steps-- <= 0)
    const rate = rng.chance(0.5) ? { rate: RATE, clock: new GuestClock() } : {}
    const working = mirrorDisk(device, target.image, { ...rate, progress, signal: signal as never }).finally(() => (under.isWay = false))
    working.catch(() => undefined)
    await beGuest(run, driver, device, { under, target })
    let isDone = true
    try {
      await working
    } catch (error) {
      isDone = false
      run.disarm(target.written)
      // It got another size meanwhile, or there was an error.
      if (error !== signal.reason) run.judge(error, ["invalid-argument", "out-of-bounds"])
    }
    run.disarm(target.written)
    if (device.backing !== (isDone ? target.image : disk)) throw new Error("the guest is on another disk")
    if (!isDone) {
      target.image.close()
      await run.check("not mirrored")
      continue
    }
    // What changed the old image as a whole when the guest was elsewhere already is not on the new one.
    if (under.before !== undefined && !isSame(await contentOf(target.image), run.expected.disk)) run.expected.disk = under.before
    await run.switchTo(name, target)
    await run.check("mirrored")
    await beGuest(run, driver, device, { under: { isWay: true, before: undefined }, target })
    break
  }
  await driver.close()
  vm.detachDisk(slot)
}

/** Turns of the thread that a write takes at most. */
const MOST_TURNS = 12

/** `disk`, whose writes reach it some turns after they have begun: whoever reads in between does not see them. */
function writingLater(disk: VirtioBacking, rng: Rng): VirtioBacking {
  const later = (work: (...args: never[]) => unknown) => async (...args: never[]): Promise<void> => {
    for (let turns = rng.below(MOST_TURNS); turns > 0; turns--) await new Promise((resolve) => setImmediate(resolve))
    await Reflect.apply(work, disk, args)
  }
  const late: readonly PropertyKey[] = ["pwrite", "pwritev", "writeZeroes", "discard"]
  const missing: readonly PropertyKey[] = ["preadInto", "pwriteFrom"]
  return new Proxy(disk, {
    get: (target, key) => {
      if (key === "asynchronous") return true
      const value: unknown = missing.includes(key) ? undefined : Reflect.get(target, key, target)
      if (typeof value !== "function") return value
      return late.includes(key) ? later(value as never) : value.bind(target)
    },
  })
}

/** What a guest works on. */
interface Stage {
  readonly under: UnderWay
  /** Where its requests may end, and fail. */
  readonly target: Opened
}

interface UnderWay {
  isWay: boolean
  /** The disk as it was before a change of the whole image that ended after the mirror did. */
  before: FlatModel | undefined
}

function isSame(content: Uint8Array, model: FlatModel): boolean {
  return content.length === model.size && model.firstDifference(content, 0) < 0
}

/** Sends requests, one after the other, while something is under way, and no more than some. */
async function beGuest(run: Run, driver: BlockDriver, device: VirtioBlk, { under, target }: Stage): Promise<void> {
  const { rng, expected } = run
  run.isBusy = true
  for (let left = rng.between(0, MOST_REQUESTS); left > 0 && under.isWay; left--) {
    const ids = [...expected.snapshots.keys()]
    const roll = rng.below(100)
    const before = expected.disk.clone()
    let held: readonly HeldWrite[] = []
    if (roll < 92) await request(run, driver, target)
    else if (roll < 96 && ids.length > 0) held = await applyHolding(run, driver, device, rng.pick(ids))
    else if (roll > 98) await device.changeContent(() => doLater(resize(run)))
    if (roll >= 92 && !under.isWay) {
      for (const { sector } of held) before.write(await driver.read(sector, 1), sector * SECTOR)
      under.before = before
    }
    await new Promise((resolve) => setImmediate(resolve))
  }
  run.isBusy = false
}

interface HeldWrite {
  readonly sector: number
  readonly next: Uint8Array
  readonly sent: Promise<void>
}

/** Goes back to a snapshot while the guest sends writes: they are held until that is over, and come on top of it. */
async function applyHolding(run: Run, driver: BlockDriver, device: VirtioBlk, id: string): Promise<readonly HeldWrite[]> {
  const { rng, expected } = run
  const sectors = Math.min(expected.disk.size, expected.snapshots.get(id)?.content.size ?? 0) / SECTOR
  const held: HeldWrite[] = []
  await device.changeContent(() => {
    for (const sector of new Set(Array.from({ length: rng.below(4) }, () => rng.below(sectors)))) {
      run.note(`write by the driver, sector ${sector}, held`)
      const next = rng.bytes(SECTOR)
      const sent = driver.write(sector, next)
      sent.catch(() => undefined)
      held.push({ sector, next, sent })
    }
    return doLater(applySnapshot(run, id))
  })
  for (const { sector, next, sent } of held) {
    try {
      await sent
      expected.write(next, sector * SECTOR)
    } catch (error) {
      if (!run.hasFaults || !(error instanceof BlockRequestError)) throw error
      run.disarm()
      await readBack(run, driver, { sector, count: 1, next })
    }
  }
  return held
}

async function request(run: Run, driver: BlockDriver, target: Opened): Promise<void> {
  const { rng, expected } = run
  const sectors = expected.disk.size / SECTOR
  const sector = rng.below(sectors)
  const count = Math.min(sectors - sector, rng.between(1, rng.pick([8, 64])))
  const kind = rng.pick(["write", "write", "read", "zero", "discard", "flush"] as const)
  const next = kind === "write" ? rng.bytes(count * SECTOR) : new Uint8Array(count * SECTOR)
  run.note(`${kind} by the driver, sector ${sector}, ${count}`)
  let hasFailed = false
  try {
    if (kind === "write") await driver.write(sector, next)
    else if (kind === "zero") await driver.writeZeroes([{ sector, sectors: count }], { unmap: rng.chance(0.5) })
    else if (kind === "flush") return await driver.flush()
    else if (kind === "discard") await driver.discard([{ sector, sectors: count }])
  } catch (error) {
    // The guest is on the target already, where calls may fail.
    if (!run.hasFaults || !(error instanceof BlockRequestError)) throw error
    run.disarm(target.written)
    run.note(`  ${error.message}`)
    hasFailed = true
  }
  if (kind === "write" || kind === "zero") if (!hasFailed) return expected.write(next, sector * SECTOR)
  await readBack(run, driver, { sector, count, next: kind === "read" ? undefined : next })
}

/** Each byte is as it was, or as it was to be. */
async function readBack(
  { expected }: Run, driver: BlockDriver,
  { sector, count, next }: { readonly sector: number; readonly count: number; readonly next: Uint8Array | undefined },
): Promise<void> {
  const offset = sector * SECTOR
  const before = expected.disk.read(offset, count * SECTOR)
  const found = await driver.read(sector, count)
  const wrong = found.findIndex((byte, at) => byte !== before[at] && byte !== next?.[at])
  if (wrong >= 0) throw new Error(`byte ${offset + wrong} read by the driver is ${found[wrong]}, not ${before[wrong]} or ${next?.[wrong]}`)
  if (next !== undefined) expected.write(found, offset)
}
